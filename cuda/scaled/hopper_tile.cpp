#include "scaled/hopper_tile.h"

#include <string>

#include "tile/plan.h"

namespace qcore::scaled {
namespace {

constexpr double kProducts = 4096;  // that the matrix unit makes in one clock
constexpr int kMostHopperSplits = 8;

double cost(int64_t m, int64_t n, const HopperPlan& p, int multiprocessors) {
  const double rows = p.tile.rows, columns = p.tile.columns;
  const double present = static_cast<double>(std::min<int64_t>(m, p.tile.rows));
  // The weight comes from global memory once, and from the cache for all other rows of tiles.
  const double chunk = std::max({rows * columns * kHopperChunk / kProducts,
                                 columns * kHopperChunk / kHopperGlobalBytes / p.row_tiles,
                                 (present + columns) * kHopperChunk / kHopperCacheBytes});
  const double rounds = static_cast<double>(ceil_div(p.works(), multiprocessors));
  double clocks = rounds * (p.split_chunks * chunk + rows * columns / 8) + kHopperStart;
  if (p.splits > 1) {
    const double bytes = static_cast<double>(m) * static_cast<double>(n) * 8 * p.splits;
    clocks += kHopperLaunch + bytes / multiprocessors / kHopperGlobalBytes;
  }
  return clocks;
}

Status takes(int sm, bool floats, bool aligned, int64_t m, int64_t n, int64_t k) {
  if (sm != 0 && sm != 90) return Status::unsupported("runs on compute capability 9.0 alone");
  if (floats && k % 16 != 0) {
    return Status::unsupported("quantizes to rows of a k that is a multiple of 16");
  }
  if (!aligned) return Status::unsupported("takes rows that start at multiples of 16 bytes");
  if (k < 1) return Status::unsupported("takes k of 1 or more");
  constexpr int64_t kMost = int64_t{1} << 30;
  if (m > kMost || n > kMost || k > kMost) return Status::unsupported("takes sizes up to 2^30");
  return {};
}

}  // namespace

HopperPlan make_hopper_plan(int64_t m, int64_t n, int64_t k, HopperTileKey tile, int splits,
                            int multiprocessors) {
  const int64_t chunks = ceil_div(k, kHopperChunk);
  const int64_t split_chunks = ceil_div(chunks, std::max(splits, 1));
  HopperPlan plan{.tile = tile,
                  .row_tiles = static_cast<int>(ceil_div(m, tile.rows)),
                  .column_tiles = static_cast<int>(ceil_div(n, tile.columns)),
                  .splits = static_cast<int>(ceil_div(chunks, split_chunks)),
                  .split_chunks = static_cast<int>(split_chunks),
                  .blocks = 0};
  plan.blocks = static_cast<int>(std::min<int64_t>(plan.works(), multiprocessors));
  return plan;
}

HopperPlan choose_hopper_plan(int64_t m, int64_t n, int64_t k, std::span<const HopperTileKey> tiles,
                              int most_splits, int multiprocessors) {
  HopperPlan best{};
  double least = 0;
  for (const HopperTileKey& tile : tiles) {
    for (int splits = 1; splits <= most_splits; ++splits) {
      const HopperPlan plan = make_hopper_plan(m, n, k, tile, splits, multiprocessors);
      if (plan.splits != splits) continue;
      const double clocks = cost(m, n, plan, multiprocessors);
      if (best.blocks == 0 || clocks < least) {
        best = plan;
        least = clocks;
      }
    }
  }
  return best;
}

// Blocks that quantize together would have to meet again before splits are added up.
HopperPlan choose_hopper_plan(const ScaledArgs& args, int multiprocessors) {
  const bool int8 = args.integers(), floats = args.floats.x != nullptr;
  HopperTileKey allowed[8];
  size_t count = 0;
  for (const HopperTileKey& tile :
       int8 ? std::span<const HopperTileKey>(kHopperInt8Tiles) : kHopperFp8Tiles) {
    if (!floats || hopper_quantizes(int8, tile.rows)) allowed[count++] = tile;
  }
  HopperPlan plan = choose_hopper_plan(args.m, args.w.n, args.w.k, std::span(allowed, count),
                                       int8 && !floats ? kMostHopperSplits : 1, multiprocessors);
  if (floats) plan.blocks = multiprocessors;  // those without a tile quantize as well
  return plan;
}

Workspace hopper_workspace(const ScaledArgs& args, const HopperPlan& plan) {
  constexpr int64_t kAlign = 256;
  Workspace at = reference_workspace_of(args);
  if (plan.splits == 1) return at;
  at.partial = ceil_div(at.bytes, kAlign) * kAlign;
  at.bytes = at.partial + args.m * plan.column_tiles * plan.tile.columns * int64_t{4} * plan.splits;
  return at;
}

Status hopper_supports(const ScaledProblem& p) {
  if (Status status = tile::takes_one_expert(p.weight.experts); !status.ok()) return status;
  constexpr int64_t kFew = 64;
  if (p.x_type == Elements::s8 && p.floats && p.m <= kFew) {
    return Status::unsupported("quantizes more than " + std::to_string(kFew) + " rows");
  }
  return takes(p.sm, p.floats, p.aligned, p.m, p.weight.n, p.weight.k);
}

}  // namespace qcore::scaled
