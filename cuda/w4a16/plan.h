// The variants of the W4A16 kernel that are built, and which one a product takes (tile/plan.h).
// Plain host code: the choice is tested where no GPU is.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "qcore/w4a16.h"
#include "tile/plan.h"
#include "w4a16/layout.h"

namespace qcore::w4a16 {

// What is built. Few tokens leave room in shared memory for several parts of K.
#define QCORE_W4A16_VARIANTS(X) \
  X(1, 1) X(1, 2) X(1, 4) X(1, 8) X(2, 1) X(2, 2) X(2, 4) X(2, 8) X(4, 1) X(4, 2) X(8, 1)
inline constexpr tile::VariantKey kVariants[] = {
#define QCORE_W4A16_VARIANT(token_tiles, warps_k) {token_tiles, warps_k},
    QCORE_W4A16_VARIANTS(QCORE_W4A16_VARIANT)
#undef QCORE_W4A16_VARIANT
};

// A variant for one kind of weight: the constants that the kernel is compiled with. Sums are
// multiplied by their scale after every kFlush halves of K, which a group holds a whole number of.
template <int kBits_, int kFlush_, int kTokenTiles_, int kWarpsK_>
struct Variant : tile::Shape<kTokenTiles_, kWarpsK_> {
  using Shape = tile::Shape<kTokenTiles_, kWarpsK_>;
  static constexpr int kBits = kBits_, kFlushHalves = kFlush_;
  static constexpr int kChunkColumns = chunk_columns(kBits);
  // Slots of the pipeline. Where activations fill them, fewer, so that two blocks fit a Hopper's
  // multiprocessor and 32 tokens any card.
  static constexpr int kStages = kTokenTiles_ * kWarpsK_ < 8 && kTokenTiles_ < 4 ? 4 : 3;
  static constexpr int kWeightBytes = tile::kWarps * tile::kWarpRows / kTileRows * kTileBytes;
  // Activations of one part of K.
  static constexpr int kPartBytes = Shape::kTokens * kChunkColumns * 2;
  static constexpr int kActivationBytes = kWarpsK_ * kPartBytes;

  // Scales and zero points of one warp's rows in one chunk.
  static constexpr int parameter_bytes(DType scale_dtype, bool has_zeros) {
    return chunk_halves(kBits) / kFlushHalves * tile::kWarpRows *
           (static_cast<int>(size_of(scale_dtype)) + (has_zeros ? 1 : 0));
  }
  // A multiple of 256, so that the bits below name a place in a row of activations.
  static constexpr int stage_bytes(DType scale_dtype, bool has_zeros) {
    return kWeightBytes + kActivationBytes + tile::kWarps * parameter_bytes(scale_dtype, has_zeros);
  }
  static constexpr int shared_bytes(DType scale_dtype, bool has_zeros) {
    return std::max(kStages * stage_bytes(scale_dtype, has_zeros), Shape::kSumBytes);
  }
};

// How many halves of K a kernel sums before it applies the scale: as many as divide every group, 1,
// 2 or 4, within one chunk. One group has no inner border.
constexpr int flush_halves(const ScaledWeight& w, int most) {
  const int64_t group = w.groups() == 1 ? 4 : ceil_div(w.group_size, kHalfColumns);
  int halves = most;
  while (group % halves != 0) halves /= 2;
  return halves;
}
constexpr int flush_halves(const ScaledWeight& w) {
  return flush_halves(w, chunk_halves(w.bits()));
}

// Calls f.template operator()<Variant>() for the variant of the key and the weight; false if it is
// not built.
template <class F>
bool with_variant(const ScaledWeight& w, tile::VariantKey key, const F& f) {
  const int flush = flush_halves(w);
#define QCORE_W4A16_CASE(token_tiles_, warps_k_)                                     \
  if (key.token_tiles == token_tiles_ && key.warps_k == warps_k_) {                  \
    if (stored_bits(w.bits()) == 8) {                                                \
      flush == 2 ? f.template operator()<Variant<8, 2, token_tiles_, warps_k_>>()    \
                 : f.template operator()<Variant<8, 1, token_tiles_, warps_k_>>();   \
    } else {                                                                         \
      flush == 4   ? f.template operator()<Variant<4, 4, token_tiles_, warps_k_>>()  \
      : flush == 2 ? f.template operator()<Variant<4, 2, token_tiles_, warps_k_>>()  \
                   : f.template operator()<Variant<4, 1, token_tiles_, warps_k_>>(); \
    }                                                                                \
    return true;                                                                     \
  }
  QCORE_W4A16_VARIANTS(QCORE_W4A16_CASE)
#undef QCORE_W4A16_CASE
  return false;
}

// Whether activations must be brought into the order of the packed columns first.
bool must_gather(const W4A16Args& args, const Geometry& g);

// The plan of a product, and what its kernel cannot take (fp32 activations, sizes
// beyond its counters), with the reason.
tile::Plan choose_plan(const W4A16Args& args, const tile::DeviceLimits& limits);
tile::Plan make_plan(const W4A16Args& args, tile::VariantKey variant, int splits);
Status supports(const W4A16::Problem& problem);
// The plan in words, if the GPU is known, with activations that are aligned.
std::string describe_plan(const W4A16::Problem& problem);
W4A16Args args_of(const W4A16::Problem& problem);
// What the kernels rely on: memory aligned to 16 bytes, and a workspace where one is needed.
Status check_memory(const W4A16Args& args, int64_t workspace_bytes);

}  // namespace qcore::w4a16
