// The kernels of the product that are built: families of formats that one kernel serves, and how
// many tokens and parts of K a block takes.
#pragma once

#include "kquant/layout.h"
#include "tile/plan.h"

namespace qcore::kquant {

// What is compiled into a kernel. Formats whose blocks of 32 have no integer scales share the
// kernel of those that have (`kScales`): whether they are there is asked at run time.
template <int kLow, int kHigh, int kGroup_, Scales kScales_, bool kMin, bool kTable_, int kZero_>
struct Family {
  static constexpr int kLowBits = kLow, kHighBits = kHigh, kBits = kLow + kHigh;
  static constexpr int kGroup = kGroup_;
  static constexpr Scales kScales = kScales_;
  static constexpr bool kHasMin = kMin, kTable = kTable_;
  static constexpr int kZero = kZero_;

  // The layout of a member with blocks of `elements`.
  static constexpr Traits traits(int elements) {
    return {.elements = elements,
            .bytes = 0,
            .group = elements == 32 ? 32 : kGroup,
            .low_bits = kLow,
            .high_bits = kHigh,
            .scales = elements == 32 ? Scales::none : kScales,
            .has_min = kMin,
            .table = kTable,
            .bfloat_d = false,
            .has_spare = false,
            .zero = kZero};
  }
  static constexpr int kChunkColumns = traits(256).chunk_columns();
  // What a warp copies of a chunk: all of it and, of blocks of 256, their halves.
  static constexpr int staged_bytes(int elements) {
    return traits(elements).chunk_bytes() + (elements == 32 ? 0 : traits(elements).halves_bytes());
  }
  static constexpr int kStagedBytes = std::max(staged_bytes(32), staged_bytes(256));
};

template <class Block>
constexpr auto family_of() {
  constexpr Traits t = traits<Block>();
  constexpr Scales kScales = t.table                        ? Scales::one
                             : t.has_min && t.low_bits == 4 ? Scales::pair
                                                            : t.scales;
  return Family<t.low_bits, t.high_bits, t.group, kScales, t.has_min, t.table, t.zero>{};
}
template <class Block>
using FamilyOf = decltype(family_of<Block>());

// Tokens of a block in eights, and warps along K; of equal tokens the widest first. All but those
// of 8 warps along K and of 64 tokens fit the 99 KB of a small card.
#define QCORE_KQUANT_VARIANTS(X) X(1, 2) X(1, 8) X(2, 2) X(4, 1) X(8, 1)
inline constexpr tile::VariantKey kVariants[] = {
#define QCORE_KQUANT_VARIANT(token_tiles, warps_k) {token_tiles, warps_k},
    QCORE_KQUANT_VARIANTS(QCORE_KQUANT_VARIANT)
#undef QCORE_KQUANT_VARIANT
};

template <class F, int kTokenTiles_, int kWarpsK_>
struct Variant : tile::Shape<kTokenTiles_, kWarpsK_> {
  using Family = F;
  using Shape = tile::Shape<kTokenTiles_, kWarpsK_>;
  // Per multiprocessor. Scales and minima of every 16 columns leave registers for one.
  static constexpr bool kLarge =
      kTokenTiles_ == 8 || (kTokenTiles_ == 4 && F::kHasMin && F::kGroup == 16);
  static constexpr int kMinBlocks = kLarge ? 1 : 2;
  static constexpr int kChunkColumns = F::kChunkColumns;
  static constexpr int kWarpBytes = F::kStagedBytes;
  static constexpr int kWeightBytes = tile::kWarps * kWarpBytes;
  static constexpr int kPartBytes = Shape::kTokens * kChunkColumns * 2;
  // A multiple of 256, so that the bits below name a place in a row of activations.
  static constexpr int kStageBytes = kWeightBytes + kWarpsK_ * kPartBytes;
  static_assert(kWeightBytes % 256 == 0 && kStageBytes % 256 == 0);
  static constexpr int kStages = 4 * kStageBytes <= 99 << 10 ? 4 : 3;
  static constexpr int kSharedBytes = std::max(kStages * kStageBytes, Shape::kSumBytes);
};

// Calls f.template operator()<Variant>() for the variant of the key; false if it is not built.
template <class Block, class F>
bool with_variant(tile::VariantKey key, const F& f) {
#define QCORE_KQUANT_CASE(token_tiles_, warps_k_)                              \
  if (key.token_tiles == token_tiles_ && key.warps_k == warps_k_) {            \
    f.template operator()<Variant<FamilyOf<Block>, token_tiles_, warps_k_>>(); \
    return true;                                                               \
  }
  QCORE_KQUANT_VARIANTS(QCORE_KQUANT_CASE)
#undef QCORE_KQUANT_CASE
  return false;
}

}  // namespace qcore::kquant
