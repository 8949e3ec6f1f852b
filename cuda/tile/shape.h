// The shape of a block of threads in the kernels that read packed weights, for host and kernels.
#pragma once

#include <cstdint>

#include "qcore/types.h"

namespace qcore::tile {

// Of operand A of mma.m16n8k16, which the weight is.
inline constexpr int kTileRows = 16;
inline constexpr int kStepColumns = 16;

inline constexpr int kWarps = 8;
inline constexpr int kWarpRows = 32;

// A variant of a kernel: tokens of a block in eights, and warps along K.
struct VariantKey {
  int token_tiles, warps_k;
};

template <int kTokenTiles_, int kWarpsK_>
struct Shape {
  static constexpr int kTokenTiles = kTokenTiles_, kWarpsK = kWarpsK_;
  static constexpr int kWarpsN = kWarps / kWarpsK;
  static constexpr int kRows = kWarpsN * kWarpRows;
  static constexpr int kTokens = kTokenTiles * 8;
  static constexpr int kMinBlocks = kTokenTiles == 8 ? 1 : 2;  // per multiprocessor
  static constexpr bool kExperts = false;                      // schedule.h
  // The sums of a block: [part of K][token][row]. The padding spreads a warp's stores over all
  // banks.
  static constexpr int kSumStride = kRows + 4;
  static constexpr int kSumBytes = kWarpsK * kTokens * kSumStride * 4;
};

}  // namespace qcore::tile
