// The tiles of the Hopper kernel, and which one a product takes. Plain host code: the choice is
// tested where no GPU is.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "scaled/plan.h"
#include "tile/hopper.h"

namespace qcore::scaled {

inline constexpr int kHopperChunk = 128;  // columns of K of one stage, as many bytes

// kGroups warpgroups multiply, one above the other; each does kBlocks times 64 rows of x, and all
// kColumns rows of the weight. Another warpgroup brings the operands.
template <int kGroups_, int kBlocks_, int kColumns_>
struct HopperTile {
  static constexpr int kGroups = kGroups_, kBlocks = kBlocks_, kColumns = kColumns_;
  static constexpr int kRows = kGroups * kBlocks * 64;
  static constexpr int kThreads = (kGroups + 1) * 128;
  static constexpr int kXBytes = kRows * kHopperChunk, kWBytes = kColumns * kHopperChunk;
  static constexpr int kStageBytes = kXBytes + kWBytes;
  static constexpr int kStages =
      std::min(16, kHopperSharedBytes / (kStageBytes + kRingBarrierBytes));
  static constexpr int kSharedBytes = kStages * (kStageBytes + kRingBarrierBytes);
};

// What is built: groups, blocks and columns. The sums of a thread take kBlocks * kColumns / 2
// registers; FP8 needs kColumns / 2 more for the sums of one chunk, hence fewer columns.
#define QCORE_HOPPER_INT8_TILES(X) X(2, 1, 256) X(2, 1, 128) X(1, 1, 64) X(1, 1, 32)
#define QCORE_HOPPER_FP8_TILES(X) X(2, 2, 128) X(2, 1, 128) X(1, 1, 64) X(1, 1, 32)

struct HopperTileKey {
  int rows, columns;
  bool operator==(const HopperTileKey&) const = default;
};
#define QCORE_HOPPER_KEY(groups, blocks, columns) {groups * blocks * 64, columns},
inline constexpr HopperTileKey kHopperInt8Tiles[] = {QCORE_HOPPER_INT8_TILES(QCORE_HOPPER_KEY)};
inline constexpr HopperTileKey kHopperFp8Tiles[] = {QCORE_HOPPER_FP8_TILES(QCORE_HOPPER_KEY)};
#undef QCORE_HOPPER_KEY

// Calls f.template operator()<HopperTile<...>>() for the tile of the key; false if it is not built.
template <bool kInt8, class F>
bool with_hopper_tile(HopperTileKey key, const F& f) {
#define QCORE_HOPPER_CASE(groups, blocks, columns)                \
  if (key == HopperTileKey{groups * blocks * 64, columns}) {      \
    f.template operator()<HopperTile<groups, blocks, columns>>(); \
    return true;                                                  \
  }
  if constexpr (kInt8) {
    QCORE_HOPPER_INT8_TILES(QCORE_HOPPER_CASE)
  } else {
    QCORE_HOPPER_FP8_TILES(QCORE_HOPPER_CASE)
  }
#undef QCORE_HOPPER_CASE
  return false;
}

// Which tiles can quantize x first, in the same launch. Of int8 the high ones: few rows are for
// int8_sm80, which splits K even then, and gives the same bits.
constexpr bool hopper_quantizes(bool int8, int rows) {
  return !int8 || rows >= 128;
}

struct HopperPlan {
  HopperTileKey tile;
  int row_tiles, column_tiles;
  int splits, split_chunks;  // parts of K, and the chunks of each
  int blocks;                // of the launch; they take tiles in turn

  int64_t works() const { return int64_t{row_tiles} * column_tiles * splits; }
};

HopperPlan make_hopper_plan(int64_t m, int64_t n, int64_t k, HopperTileKey tile, int splits,
                            int multiprocessors);
// The cheapest of all tiles and numbers of splits, by the estimate in hopper_tile.cpp. FP8 is never
// split: so the order of a sum, and its bits, depend neither on M nor on who quantized x.
HopperPlan choose_hopper_plan(int64_t m, int64_t n, int64_t k, std::span<const HopperTileKey> tiles,
                              int most_splits, int multiprocessors);

HopperPlan choose_hopper_plan(const ScaledArgs& args, int multiprocessors);

// Where the parts of the workspace begin.
Workspace hopper_workspace(const ScaledArgs& args, const HopperPlan& plan);

// What the kernel cannot take.
Status hopper_supports(const ScaledProblem& problem);

}  // namespace qcore::scaled
