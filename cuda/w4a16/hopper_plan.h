// How one product is cut up for the kernel that only Hopper runs: which tile, and which block does
// what. Plain host code, tested where no GPU is; the kernel reads the same Split.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "tile/hopper.h"
#include "tile/split.h"
#include "w4a16/plan.h"

namespace qcore::w4a16 {

// Columns of K that come at a time: one or two chunks of the layout.
inline constexpr int kHopperColumns = 128;
inline constexpr int kHopperHalves = kHopperColumns / kHalfColumns;
constexpr int64_t hopper_chunks(const Geometry& g) {
  return ceil_div(g.halves, kHopperHalves);
}

// A corner of shared memory, where a warp's 16 rows of so many tokens are turned over; a lane has
// kStagedSums of them. The padding spreads a warp's stores over all banks.
inline constexpr int kStagedTokens = 32;
inline constexpr int kStagedSums = kStagedTokens * kTileRows / 32;
inline constexpr int kStagedStride = kTileRows + 4;
inline constexpr int kStagedBytes = kStagedTokens * kStagedStride * 4;

// Two warpgroups multiply, side by side along N. Each has kBlocks panels of the weight and all
// kTokens tokens of the tile; a third one brings what they need. The sums of a thread take
// kBlocks * kTokens / 2 registers, those of one group of columns kTokens / 2 more.
//
// kFloats: the codes are 8-bit floats.
template <int kBits_, bool kFloats_, int kBlocks_, int kTokens_>
struct HopperVariant {
  static constexpr int kBits = kBits_, kBlocks = kBlocks_, kTokens = kTokens_;
  static constexpr bool kFloats = kFloats_;
  static constexpr int kGroups = 2;
  static constexpr int kPanels = kGroups * kBlocks;
  static constexpr int kRows = kPanels * kPanelRows;
  static constexpr int kThreads = (kGroups + 1) * 128;
  // Activations lie in slices of 64 columns, as many bytes as the swizzle has.
  static constexpr int kSliceColumns = 64;
  static constexpr int kSliceBytes = kTokens * kSliceColumns * 2;
  static constexpr int kXBytes = kHopperColumns / kSliceColumns * kSliceBytes;
  // Of a panel come so many tiles of the layout, one chunk after the other.
  static constexpr int kPanelTiles = kHopperColumns / chunk_columns(kBits) * kTiles;
  static constexpr int kPanelBytes = kPanelTiles * kTileBytes;
  static constexpr int kWeightBytes = kPanels * kPanelBytes;

  // Behind the stages every warp that multiplies has a corner for its sums on their way out.
  static constexpr int kAllStagedBytes = kGroups * 4 * kStagedBytes;

  // A set is what one period of the sums has of scales, and of zero points.
  static constexpr int flush_halves(const ScaledWeight& w) {
    return w4a16::flush_halves(w, kHopperHalves);
  }
  static constexpr int scale_bytes(DType scale_dtype) {
    return kPanels * kPanelRows * static_cast<int>(size_of(scale_dtype));
  }
  static constexpr int zero_bytes(bool has_zeros) { return has_zeros ? kPanels * kPanelRows : 0; }
  // What comes at a time; stages start where the swizzle's pattern does.
  static constexpr int copied_bytes(const ScaledWeight& w) {
    return kXBytes + kWeightBytes +
           kHopperHalves / flush_halves(w) * (scale_bytes(w.scale_dtype) + zero_bytes(w.has_zeros));
  }
  static constexpr int stage_bytes(const ScaledWeight& w) {
    return static_cast<int>(ceil_div(copied_bytes(w), 1024)) * 1024;
  }
  static constexpr int stages(const ScaledWeight& w) {
    return std::min(16,
                    (kHopperSharedBytes - kAllStagedBytes) / (stage_bytes(w) + kRingBarrierBytes));
  }
  static constexpr int shared_bytes(const ScaledWeight& w) {
    return stages(w) * (stage_bytes(w) + kRingBarrierBytes) + kAllStagedBytes;
  }
};

// What is built: blocks and tokens.
#define QCORE_W4A16_HOPPER_VARIANTS(X) X(2, 128) X(1, 128) X(2, 64) X(1, 64)
struct HopperTileKey {
  int rows, tokens;
  bool operator==(const HopperTileKey&) const = default;
};
#define QCORE_W4A16_HOPPER_KEY(blocks, tokens)             \
  HopperTileKey {                                          \
    HopperVariant<4, false, blocks, tokens>::kRows, tokens \
  }
#define QCORE_W4A16_HOPPER_ENTRY(blocks, tokens) QCORE_W4A16_HOPPER_KEY(blocks, tokens),
inline constexpr HopperTileKey kHopperTiles[] = {
    QCORE_W4A16_HOPPER_VARIANTS(QCORE_W4A16_HOPPER_ENTRY)};
#undef QCORE_W4A16_HOPPER_ENTRY

// Calls f.template operator()<HopperVariant<...>>() for the tile and the weight; false if it is not
// built.
template <class F>
bool with_hopper_variant(const ScaledWeight& w, HopperTileKey key, const F& f) {
#define QCORE_W4A16_HOPPER_CASE(blocks, tokens)                         \
  if (key == QCORE_W4A16_HOPPER_KEY(blocks, tokens)) {                  \
    if (is_float(w.elements)) {                                         \
      f.template operator()<HopperVariant<8, true, blocks, tokens>>();  \
    } else if (stored_bits(w.bits()) == 8) {                            \
      f.template operator()<HopperVariant<8, false, blocks, tokens>>(); \
    } else {                                                            \
      f.template operator()<HopperVariant<4, false, blocks, tokens>>(); \
    }                                                                   \
    return true;                                                        \
  }
  QCORE_W4A16_HOPPER_VARIANTS(QCORE_W4A16_HOPPER_CASE)
#undef QCORE_W4A16_HOPPER_CASE
#undef QCORE_W4A16_HOPPER_KEY
  return false;
}

// How many rounds of tiles (one for every block) are shared, beside the last, incomplete one.
enum class Sharing { nothing, rest, rest_and_round };

struct HopperPlan {
  HopperTileKey tile;
  Sharing sharing;
  int multiprocessors;
  int64_t tokens;  // of one pass: more are multiplied in several, so that the workspace stays small
  bool gather;     // activations are copied into the order of the packed columns
  int64_t gathered_bytes;  // at the start of the workspace
  int64_t partial_bytes;   // after them: slots of fp32 sums

  int64_t workspace_bytes() const { return gathered_bytes + partial_bytes; }
  // Of a pass.
  tile::Split split(int64_t m, int64_t n, int64_t chunks) const;
};

HopperPlan make_hopper_plan(const W4A16Args& args, HopperTileKey tile, Sharing sharing,
                            int multiprocessors);
// The cheapest by the estimate in hopper_plan.cpp.
HopperPlan choose_hopper_plan(const W4A16Args& args, int multiprocessors);

// The plan in words, if the GPU is known, with activations that are aligned.
std::string describe_hopper_plan(const W4A16::Problem& problem);

// What this kernel leaves to others, with the reason.
Status hopper_supports(const W4A16::Problem& problem);

// Fewer tokens are bound by reading the weight, which the kernel for all cards does with all
// warps; from here on the matrix unit decides, which a warp alone uses to two thirds.
inline constexpr int64_t kHopperLeastTokens = 33;

}  // namespace qcore::w4a16
