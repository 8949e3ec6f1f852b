// The launches of the block formats. `launch` starts a kernel: on a GPU, or in the emulator.
#pragma once

#include "kquant/dequantize.cuh"
#include "kquant/gemm.cuh"
#include "kquant/pack.cuh"
#include "kquant/packed.h"
#include "kquant/plan.h"
#include "kquant/reference.cuh"
#include "tile/gather.cuh"
#include "tile/launches.h"

namespace qcore::kquant {

// launch.template operator()<Kernel>(blocks, shared_bytes, params) -> Status
template <class Launch>
Status run_dequantize(const BlockFormat& format, const DequantizeParams& params,
                      const Launch& launch) {
  return with_block(format, [&]<class Block>() {
    using Kernel = Dequantize<Block>;
    return launch.template operator()<Kernel>(static_cast<int>(Kernel::tiles(params.count)),
                                              Kernel::kTileBytes, params);
  });
}

template <class Launch>
Status run_pack(const BlockShape& shape, const void* blocks, void* packed, const Launch& launch) {
  const Geometry g = geometry_of(shape);
  return with_block(*shape.format, [&]<class Block>() {
    using Kernel = Pack<Block>;
    return launch.template operator()<Kernel>(tile::element_blocks(Kernel::count(g)), 0,
                                              PackParams{g, blocks, packed});
  });
}

template <class Launch>
Status run_unpack(const PackedBlocks& packed, void* blocks, const Launch& launch) {
  const Geometry g = geometry_of(packed.shape);
  return with_block(*packed.shape.format, [&]<class Block>() {
    using Kernel = Unpack<Block>;
    return launch.template operator()<Kernel>(tile::element_blocks(Kernel::count(g)), 0,
                                              PackParams{g, packed.data, blocks});
  });
}

// 16 signed bytes, of codes that name a value.
template <class Block>
void set_values(uint32_t (&words)[4]) {
  for (uint32_t i = 0; i < 16; ++i) {
    words[i / 4] |= static_cast<uint32_t>(Block::value(static_cast<int>(i)) & 0xff) << (i % 4 * 8);
  }
}

template <class T, class Block>
GemmParams gemm_params(const tile::TileParams& tiles, const Geometry& g, const void* weight,
                       int64_t expert_bytes) {
  constexpr Traits kTraits = traits<Block>();
  constexpr int kStaged =
      kTraits.chunk_bytes() + (kTraits.blocks_in_chunks() ? 0 : kTraits.halves_bytes());
  GemmParams params = {};
  static_cast<tile::TileParams&>(params) = tiles;
  params.weight = weight;
  params.chunk_pieces = kTraits.chunk_bytes() / 16;
  params.super_pieces = kTraits.super_bytes() / 16;
  params.staged_pieces = kStaged / 16;
  params.staged_end = (kTraits.super_bytes() - kTraits.spare_bytes()) / 16;
  while (1 << params.super_shift < kTraits.chunks()) ++params.super_shift;
  params.supers = static_cast<int>(g.supers);
  params.expert_pieces = static_cast<uint32_t>(expert_bytes / 16);
  params.has_scales = kTraits.scales != Scales::none;
  params.d_dtype = kTraits.bfloat_d ? DType::bf16 : DType::f16;
  params.halves = kTraits.blocks_in_chunks() ? kTraits.code_bytes() : kTraits.chunk_bytes();
  params.halves_step = kTraits.blocks_in_chunks() ? kTraits.halves_bytes() : 0;
  if constexpr (kTraits.table) {
    for (int i = 0; i < 16; ++i) {
      const uint32_t bits = Number<T>::bits(static_cast<float>(Block::value(i)));
      params.table[i / 4] |= (bits & 0xff) << (i % 4 * 8);
      params.table[4 + i / 4] |= (bits >> 8) << (i % 4 * 8);
    }
  }
  return params;
}

// The product of plan.tokens tokens, at most.
template <class T, bool kExperts, class Launch>
Status run_pass(const KquantArgs& args, const tile::Product& pass, const tile::Plan& plan,
                const Launch& launch) {
  const Geometry g = geometry_of(args.weight.shape);
  if (plan.gather) {
    const tile::GatherParams params{.x = pass.x,
                                    .x_stride = pass.x_stride,
                                    .perm = nullptr,
                                    .k = g.k,
                                    .group_size = g.k,
                                    .padded_group = g.padded_k(),
                                    .m = static_cast<int>(pass.m),
                                    .columns = static_cast<int>(g.padded_k()),
                                    .to = pass.workspace};
    const Status status = launch.template operator()<tile::Gather>(
        tile::Gather::blocks(params.m, params.columns), 0, params);
    if (!status.ok()) return status;
  }
  tile::TileParams tiles = tile::tile_params(pass, plan);
  const int64_t from_expert_to_expert = kExperts ? expert_bytes(layout, args.weight.shape) : 0;
  const Status status = with_block(*args.weight.shape.format, [&]<class Block>() {
    Status launched = Status::unsupported("plan: no such variant of the kernel");
    with_variant<Block>(plan.variant, [&]<class V>() {
      using Kernel = Gemm<T, std::conditional_t<kExperts, tile::WithExperts<V>, V>>;
      tiles.stage_bytes = V::kStageBytes;
      launched = launch.template operator()<Kernel>(
          tile::blocks_of(tiles), plan.shared_bytes,
          gemm_params<T, Block>(tiles, g, args.weight.data, from_expert_to_expert));
    });
    return launched;
  });
  return status.ok() ? tile::run_reduce<T>(tiles, plan, launch) : status;
}

// args.workspace holds plan.workspace_bytes(). kExperts: the weight has several.
template <class T, bool kExperts = false, class Launch>
Status run_gemm(const KquantArgs& args, const tile::Plan& plan, const Launch& launch) {
  const Geometry g = geometry_of(args.weight.shape);
  const tile::Product product{.m = args.m,
                              .n = g.n,
                              .columns = g.k,
                              .padded_columns = g.padded_k(),
                              .chunks = g.chunks(),
                              .x = args.x,
                              .x_stride = args.x_stride,
                              .bias = args.bias,
                              .y = args.y,
                              .workspace = args.workspace,
                              .experts = args.weight.shape.experts,
                              .offsets = args.offsets};
  return tile::run_passes(product, plan.tokens, [&](const tile::Product& pass) {
    return run_pass<T, kExperts>(args, pass, plan, launch);
  });
}

template <class Launch>
Status run_reference(const KquantArgs& args, const Launch& launch) {
  const Geometry g = geometry_of(args.weight.shape);
  ReferenceParams params{.dtype = args.dtype,
                         .x = args.x,
                         .x_stride = args.x_stride,
                         .m = args.m,
                         .geometry = g,
                         .weight = args.weight.data,
                         .values = {},
                         .bias = args.bias,
                         .y = args.y};
  with_block(*args.weight.shape.format, [&]<class Block>() {
    if constexpr (traits<Block>().table) set_values<Block>(params.values);
    return true;
  });
  return launch.template operator()<Reference>(Reference::blocks(g.n), 0, params);
}

}  // namespace qcore::kquant
