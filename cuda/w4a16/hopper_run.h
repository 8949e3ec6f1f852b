// The launches that make one product on Hopper, in order. `launch` starts a kernel and encodes
// tensor maps: on a GPU, or in the emulator.
#pragma once

#include <bit>

#include "w4a16/hopper.cuh"
#include "w4a16/run.h"

namespace qcore::w4a16 {

// [panels, groups, kPanelRows] elements.
inline TensorFacts hopper_parameters(const void* base, const Geometry& g, int size, int panels) {
  const auto bytes = static_cast<uint64_t>(size) * kPanelRows,
             groups = static_cast<uint64_t>(g.groups);
  return {.base = base,
          .element_bytes = size,
          .rank = 3,
          .size = {kPanelRows, groups, static_cast<uint64_t>(g.panels)},
          .stride = {bytes, bytes * groups},
          .box = {kPanelRows, 1, static_cast<uint32_t>(panels)},
          .swizzle = Swizzle::none};
}

template <class V, class Launch>
Status hopper_maps(const W4A16Args& args, const tile::Product& pass, bool gathered,
                   const Launch& launch, HopperParams& p) {
  const PackedScaled& weight = args.weight;
  const Geometry g(weight.shape);
  const int64_t columns = gathered ? pass.padded_columns : pass.columns;
  // A single row has no stride that matters, but the hardware wants a good one.
  const int64_t x_stride = gathered || pass.m == 1 ? ceil_div(columns, 8) * 8 : pass.x_stride;
  const TensorFacts x{.base = gathered ? pass.workspace : pass.x,
                      .element_bytes = 2,
                      .rank = 2,
                      .size = {static_cast<uint64_t>(columns), static_cast<uint64_t>(pass.m), 1},
                      .stride = {static_cast<uint64_t>(x_stride) * 2, 0},
                      .box = {V::kSliceColumns, V::kTokens, 1},
                      .swizzle = Swizzle::bytes128};
  const auto chunks = static_cast<uint64_t>(g.chunks);
  const TensorFacts words{
      .base = weight.qweight,
      .element_bytes = 4,
      .rank = 3,
      .size = {kTileBytes / 4, chunks * kTiles, static_cast<uint64_t>(g.panels)},
      .stride = {kTileBytes, chunks * kTiles * kTileBytes},
      .box = {kTileBytes / 4, V::kPanelTiles, V::kPanels},
      .swizzle = Swizzle::none};
  const TensorFacts scales = hopper_parameters(
      weight.scales, g, static_cast<int>(size_of(weight.shape.scale_dtype)), V::kPanels);
  for (Status status : {launch.tensor_map(x, p.x), launch.tensor_map(words, p.weight),
                        launch.tensor_map(scales, p.scales)}) {
    if (!status.ok()) return status;
  }
  if (!weight.zeros) return {};
  return launch.tensor_map(hopper_parameters(weight.zeros, g, 1, V::kPanels), p.zeros);
}

template <class T, class V, class Launch>
Status run_hopper_variant(const W4A16Args& args, const tile::Product& pass, const HopperPlan& plan,
                          const Launch& launch) {
  const ScaledWeight& w = args.weight.shape;
  const Geometry g(w);
  HopperParams p{};
  if (Status status = hopper_maps<V>(args, pass, plan.gather, launch, p); !status.ok()) {
    return status;
  }
  p.split = plan.split(pass.m, pass.n, hopper_chunks(g));
  p.tiles = {.m = static_cast<int>(pass.m),
             .across = static_cast<int>(ceil_div(pass.m, V::kTokens)),
             .along = static_cast<int>(ceil_div(pass.n, V::kRows))};
  p.flush_shift = std::countr_zero(static_cast<unsigned>(V::flush_halves(w)));
  p.group_halves = static_cast<int>(g.groups > 1 ? g.group_halves : g.padded_k());
  p.stages = V::stages(w);
  p.stage_bytes = static_cast<uint32_t>(V::stage_bytes(w));
  p.copied_bytes = static_cast<uint32_t>(V::copied_bytes(w));
  p.scale_dtype = w.scale_dtype;
  p.scale_size = static_cast<int>(size_of(w.scale_dtype));
  p.has_zeros = w.has_zeros;
  p.center = center_of(w.elements);
  p.floats = dequant::FloatCodes(w.elements, args.dtype);
  p.shared_sums = {
      reinterpret_cast<ptx::Vec16*>(static_cast<char*>(pass.workspace) + plan.gathered_bytes),
      V::kPanels, V::kTokens / 8};
  p.out = {static_cast<int>(pass.m), static_cast<int>(pass.n), pass.bias, pass.y,
           tile::stores_vectors(pass)};
  Status status =
      launch.template operator()<HopperGemm<T, V>>(p.split.blocks, V::shared_bytes(w), p);
  if (!status.ok() || p.split.sharing == 0) return status;
  const ReduceSharedParams reduce{p.split, p.tiles, p.shared_sums, p.out};
  using Reduce = ReduceShared<T>;
  return launch.template operator()<Reduce>(Reduce::blocks(reduce), Reduce::kSharedBytes, reduce);
}

// args.workspace holds plan.workspace_bytes().
//
// launch.template operator()<Kernel>(blocks, shared_bytes, params) -> Status
// launch.tensor_map(facts, map) -> Status
template <class T, class Launch>
Status run_hopper(const W4A16Args& args, const HopperPlan& plan, const Launch& launch) {
  return tile::run_passes(product_of(args), plan.tokens, [&](const tile::Product& pass) {
    if (plan.gather) {
      if (Status status = run_gather(args, pass, launch); !status.ok()) return status;
    }
    Status status = Status::unsupported("plan: no such tile of the kernel");
    with_hopper_variant(args.weight.shape, plan.tile, [&]<class V>() {
      status = run_hopper_variant<T, V>(args, pass, plan, launch);
    });
    return status;
  });
}

}  // namespace qcore::w4a16
