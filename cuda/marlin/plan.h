// How one product is cut up for a GPU: which variant of the kernel, how many blocks, what must be
// prepared before and added up after. Plain host code: the choice is tested where no GPU is.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "marlin/layout.h"
#include "qcore/w4a16.h"

namespace qcore::marlin {

inline constexpr int kWarps = 8;
inline constexpr int kWarpRows = 32;

// The variants of the kernel that are built: tokens of a block in eights, and warps along K. Few
// tokens leave room in shared memory for several parts of K.
struct VariantKey {
  int token_tiles, warps_k;
};
#define QCORE_MARLIN_VARIANTS(X) \
  X(1, 1) X(1, 2) X(1, 4) X(1, 8) X(2, 1) X(2, 2) X(2, 4) X(2, 8) X(4, 1) X(4, 2) X(8, 1)
inline constexpr VariantKey kVariants[] = {
#define QCORE_MARLIN_VARIANT(token_tiles, warps_k) {token_tiles, warps_k},
    QCORE_MARLIN_VARIANTS(QCORE_MARLIN_VARIANT)
#undef QCORE_MARLIN_VARIANT
};

// The shape of a block of threads.
template <int kTokenTiles_, int kWarpsK_>
struct Shape {
  static constexpr int kTokenTiles = kTokenTiles_, kWarpsK = kWarpsK_;
  static constexpr int kWarpsN = kWarps / kWarpsK;
  static constexpr int kRows = kWarpsN * kWarpRows;
  static constexpr int kTokens = kTokenTiles * 8;
  static constexpr int kMinBlocks = kTokenTiles == 8 ? 1 : 2;  // per multiprocessor
  // The sums of a block: [part of K][token][row]. The padding spreads a warp's stores over all
  // banks.
  static constexpr int kSumStride = kRows + 4;
  static constexpr int kSumBytes = kWarpsK * kTokens * kSumStride * 4;
};

// A variant for one kind of weight: the constants that the kernel is compiled with. Sums are
// multiplied by their scale after every kFlush halves of K, which a group holds a whole number of.
template <int kBits_, int kFlush_, int kTokenTiles_, int kWarpsK_>
struct Variant : Shape<kTokenTiles_, kWarpsK_> {
  using Shape = marlin::Shape<kTokenTiles_, kWarpsK_>;
  static constexpr int kBits = kBits_, kFlushHalves = kFlush_;
  static constexpr int kChunkColumns = chunk_columns(kBits);
  // Slots of the pipeline. Where activations fill them, fewer, so that two blocks fit a Hopper's
  // multiprocessor and 32 tokens any card.
  static constexpr int kStages = kTokenTiles_ * kWarpsK_ < 8 && kTokenTiles_ < 4 ? 4 : 3;
  static constexpr int kWeightBytes = kWarps * kWarpRows / kTileRows * kTileBytes;
  // Activations of one part of K.
  static constexpr int kPartBytes = Shape::kTokens * kChunkColumns * 2;
  static constexpr int kActivationBytes = kWarpsK_ * kPartBytes;

  // Scales and zero points of one warp's rows in one chunk.
  static constexpr int parameter_bytes(DType scale_dtype, bool has_zeros) {
    return chunk_halves(kBits) / kFlushHalves * kWarpRows *
           (static_cast<int>(size_of(scale_dtype)) + (has_zeros ? 1 : 0));
  }
  // A multiple of 256, so that the bits below name a place in a row of activations.
  static constexpr int stage_bytes(DType scale_dtype, bool has_zeros) {
    return kWeightBytes + kActivationBytes + kWarps * parameter_bytes(scale_dtype, has_zeros);
  }
  static constexpr int shared_bytes(DType scale_dtype, bool has_zeros) {
    return std::max(kStages * stage_bytes(scale_dtype, has_zeros), Shape::kSumBytes);
  }
};

// How many halves of K a kernel sums before it applies the scale: as many as divide every group, 1,
// 2 or 4, within one chunk. One group has no inner border.
constexpr int flush_halves(const IntGroup& w, int most) {
  const int64_t group = w.groups() == 1 ? 4 : ceil_div(w.group_size, kHalfColumns);
  int halves = most;
  while (group % halves != 0) halves /= 2;
  return halves;
}
constexpr int flush_halves(const IntGroup& w) {
  return flush_halves(w, chunk_halves(w.bits));
}

// Calls f.template operator()<Variant>() for the variant of the key and the weight; false if it is
// not built.
template <class F>
bool with_variant(const IntGroup& w, VariantKey key, const F& f) {
  const int flush = flush_halves(w);
#define QCORE_MARLIN_CASE(token_tiles_, warps_k_)                                    \
  if (key.token_tiles == token_tiles_ && key.warps_k == warps_k_) {                  \
    if (stored_bits(w.bits) == 8) {                                                  \
      flush == 2 ? f.template operator()<Variant<8, 2, token_tiles_, warps_k_>>()    \
                 : f.template operator()<Variant<8, 1, token_tiles_, warps_k_>>();   \
    } else {                                                                         \
      flush == 4   ? f.template operator()<Variant<4, 4, token_tiles_, warps_k_>>()  \
      : flush == 2 ? f.template operator()<Variant<4, 2, token_tiles_, warps_k_>>()  \
                   : f.template operator()<Variant<4, 1, token_tiles_, warps_k_>>(); \
    }                                                                                \
    return true;                                                                     \
  }
  QCORE_MARLIN_VARIANTS(QCORE_MARLIN_CASE)
#undef QCORE_MARLIN_CASE
  return false;
}

struct DeviceLimits {
  int multiprocessors;
  int shared_bytes;  // that one block may have
};
// By compute capability, 90 for 9.0: the CUDA programming guide's table.
constexpr int shared_bytes_of(int sm) {
  if (sm == 86 || sm == 89 || sm >= 120) return 99 << 10;
  return (sm < 90 ? 163 : 227) << 10;
}

struct Plan {
  int tokens;  // of one pass: more are multiplied in several, so that the workspace stays small
  VariantKey variant;
  int slices, token_blocks, splits;  // blocks along N, M and K
  int split_chunks;                  // chunks of K for each split
  int shared_bytes;
  bool gather;             // activations are copied into the order of the packed columns
  int64_t gathered_bytes;  // at the start of the workspace
  int64_t partial_bytes;   // after them: fp32 sums of the splits
  int64_t workspace_bytes() const { return gathered_bytes + partial_bytes; }
};

// One product as the planner sees it, whatever the format of its weight.
struct Work {
  int64_t m, n;
  int64_t chunks;           // along the padded K
  int chunk_columns, bits;  // bits: of a weight, about
  bool gather, batch_invariant;
  std::span<const VariantKey> variants;  // of equal tokens the widest first
  std::function<int(VariantKey)> shared_bytes;
};

Plan choose_plan(const Work& work, const DeviceLimits& limits);
// The plan with a given variant and number of splits, for tests and for tuning.
Plan make_plan(const Work& work, VariantKey variant, int splits);

// How many of m tokens one pass takes, if each needs so much of the workspace.
int64_t pass_tokens(int64_t m, int64_t bytes_per_token);

// Whether activations must be brought into the order of the packed columns first.
bool must_gather(const W4A16Args& args, const Geometry& g);

// Copies of 16 bytes need aligned rows and places that 32 bits can count.
bool activations_fit(const void* x, int64_t m, int64_t x_stride, int64_t k);

// The same for a weight of int_group, and what its kernel cannot take (fp32 activations, sizes
// beyond its counters), with the reason.
Plan choose_plan(const W4A16Args& args, const DeviceLimits& limits);
Plan make_plan(const W4A16Args& args, VariantKey variant, int splits);
Status supports(const W4A16::Problem& problem);
// The plan in words, if the GPU is known, with activations that are aligned.
std::string describe_plan(const W4A16::Problem& problem);
W4A16Args args_of(const W4A16::Problem& problem);
// What the kernels rely on: memory aligned to 16 bytes, and a workspace where one is needed.
Status check_memory(const W4A16Args& args, int64_t workspace_bytes);

inline constexpr int64_t kMostWorkspaceBytes = int64_t{64} << 20;  // of a pass, where it can be cut
inline constexpr int64_t kWorkspaceAlignment = 256;                // of its parts

}  // namespace qcore::marlin
