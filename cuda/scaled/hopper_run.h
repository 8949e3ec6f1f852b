// The launches that make one product on Hopper. `launch` starts a kernel and encodes tensor maps:
// on a GPU, or in the emulator.
#pragma once

#include "scaled/hopper.cuh"
#include "scaled/run.h"

namespace qcore::scaled {

// Boxes of `box_rows` rows and one chunk of K of a row-major matrix of bytes.
inline TensorFacts hopper_matrix(const void* base, int64_t rows, int64_t columns, int64_t stride,
                                 int box_rows) {
  return {.base = base,
          .element_bytes = 1,
          .rank = 2,
          .size = {static_cast<uint64_t>(columns), static_cast<uint64_t>(rows), 1},
          .stride = {static_cast<uint64_t>(stride), 0},
          .box = {kHopperChunk, static_cast<uint32_t>(box_rows), 1},
          .swizzle = Swizzle::bytes128};
}

// One launch with floats, else one or two more: to find sums over the weight's rows, and to add up
// splits. args.workspace holds hopper_workspace(args, plan).bytes.
//
// launch.template operator()<Kernel>(blocks, shared_bytes, params) -> Status
// launch.tensor_map(facts, map) -> Status
template <class Launch>
Status run_hopper(const ScaledArgs& original, const HopperPlan& plan, const Launch& launch) {
  const Workspace at = hopper_workspace(original, plan);
  const ScaledArgs args = quantized(original, at);
  const bool fused = original.floats.x != nullptr;
  int32_t* const sums = sums_to_find(args, at);
  const auto* const weight = args.weight_as<uint8_t>();
  const SumRowsParams w_sums{weight, args.w.n, args.w.k, sums};
  if (!fused) {
    if (Status status = run_sum_rows(w_sums, launch); !status.ok()) return status;
  }
  HopperParams p{};
  // A single row has no stride that matters, but the hardware wants a good one.
  const int64_t x_stride = args.m > 1 ? args.x_stride : ceil_div(args.w.k, 16) * 16;
  const int64_t w_stride = args.w.n > 1 ? args.w.k : ceil_div(args.w.k, 16) * 16;
  for (Status status :
       {launch.tensor_map(hopper_matrix(args.x, args.m, args.w.k, x_stride, plan.tile.rows), p.x),
        launch.tensor_map(hopper_matrix(weight, args.w.n, args.w.k, w_stride, plan.tile.columns),
                          p.weight)}) {
    if (!status.ok()) return status;
  }
  p.n = static_cast<int>(args.w.n);
  p.chunks = static_cast<int>(ceil_div(args.w.k, kHopperChunk));
  p.m = static_cast<int>(args.m);
  p.row_tiles = plan.row_tiles;
  p.column_tiles = plan.column_tiles;
  p.splits = plan.splits;
  p.split_chunks = plan.split_chunks;
  const bool block_scales = args.x_scales == Granularity::block;
  if (block_scales) {
    p.x_blocks = args.x_scale;
    p.w_blocks = args.w_scale;
  }
  p.partial = part_of<char>(args.workspace, at.partial);
  p.finish = finish_params(args, sums);
  if (fused) {
    p.floats = quantize_params(original, at);
    p.w_sums = w_sums;
  }

  const Status status = with_types(args, [&]<class X, class W>() {
    constexpr bool kInt8 = std::is_same_v<X, ptx::Int8>;
    Status done = Status::unsupported("plan: no such tile of the kernel");
    with_hopper_tile<kInt8>(plan.tile, [&]<class Tile>() {
      const auto run = [&]<bool kBlockScales>() {
        using Kernel = HopperGemm<X, W, Tile, kBlockScales>;
        return launch.template operator()<Kernel>(plan.blocks, Tile::kSharedBytes, p);
      };
      if constexpr (kInt8) {
        done = run.template operator()<false>();
      } else {
        done = block_scales ? run.template operator()<true>() : run.template operator()<false>();
      }
    });
    return done;
  });
  if (!status.ok() || plan.splits == 1) return status;
  const ReduceParams reduce{p.partial, p.splits, p.m,
                            int64_t{plan.column_tiles} * plan.tile.columns, p.finish};
  return run_reduce(args, reduce, launch);
}

}  // namespace qcore::scaled
