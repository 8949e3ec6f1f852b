// The kernels of cuda/scaled that are built: how a block of 256 threads is shaped, for how many
// rows of x ("tokens"). All of them take 128 rows of the weight and 128 columns of K at a time.
#pragma once

#include <algorithm>
#include <cstdint>

namespace qcore::scaled {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kRows = 128;   // of the weight
inline constexpr int kChunk = 128;  // columns, and bytes: a scale of FP8 blocks holds for so many

// Tokens, warps side by side along the rows of the weight (the others along the tokens), slots of
// the pipeline, blocks that shall fit on a multiprocessor.
//
// Few tokens: the time is that of reading the weight, so many copies must be under way. Two blocks
// with four slots of 16 KB in flight are 128 KB for each multiprocessor, three times what hides the
// latency of an H200's memory. Many tokens: the fragments that a warp reads must serve many
// products, so its part is 64 x 32.
#define QCORE_SCALED_VARIANTS(X) \
  X(8, 8, 5, 2)                  \
  X(16, 8, 5, 2)                 \
  X(32, 4, 4, 2)                 \
  X(64, 4, 4, 1)                 \
  X(128, 2, 3, 1)
// For pairs of formats that are rare.
#define QCORE_SCALED_FEW_VARIANTS(X) \
  X(16, 8, 5, 2)                     \
  X(128, 2, 3, 1)

template <int kTokens_, int kWarpsN_, int kStages_, int kMinBlocks_>
struct Variant {
  static constexpr int kTokens = kTokens_, kWarpsN = kWarpsN_, kStages = kStages_;
  static constexpr int kMinBlocks = kMinBlocks_;
  static constexpr bool kExperts = false;  // tile/schedule.h
  static constexpr int kWarpsM = kWarps / kWarpsN;
  static constexpr int kStageBytes = (kRows + kTokens) * kChunk;
  // The sums of a block at the end: [token][row]. The padding spreads a warp's stores over all
  // banks.
  static constexpr int kSumStride = kRows + 4;
  static constexpr int kSharedBytes = std::max(kStages * kStageBytes, kTokens * kSumStride * 4);
};

// Calls f.template operator()<Variant>() for the variant of so many tokens; false if there is none.
template <class F>
bool with_variant(int tokens, const F& f) {
#define QCORE_SCALED_CASE(tokens_, warps_n, stages, min_blocks)             \
  if (tokens == tokens_) {                                                  \
    f.template operator()<Variant<tokens_, warps_n, stages, min_blocks>>(); \
    return true;                                                            \
  }
  QCORE_SCALED_VARIANTS(QCORE_SCALED_CASE)
#undef QCORE_SCALED_CASE
  return false;
}

}  // namespace qcore::scaled
