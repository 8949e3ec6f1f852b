// Which tile of a product a block of threads makes: the only place that knows the order of tiles,
// and experts.
//
// Rows of x ("tokens") are cut into tiles along M, rows of the weight along N. With a weight
// [E, N, K] of several experts, rows offsets[e] .. offsets[e + 1] - 1 of x meet expert e, and a
// tile ends where they do. The host cannot read the offsets, so it starts as many blocks as there
// may be tiles; those that find none have nothing to do. Kernels are compiled for one expert or for
// several: without kExperts they know that the weight is that of expert 0.
#pragma once

#include <cstdint>

#include "qcore/types.h"

namespace qcore::tile {

// The tiles of a product, as a parameter of its kernel. They take 32 bytes, so that what follows
// keeps its alignment: loops load up to 16 bytes of parameters at once where they lie so.
struct Tiles {
  int m;              // rows of x
  int across, along;  // tiles along M, of several experts at most, and along N
  int experts = 1;
  const int32_t* offsets = nullptr;  // [experts + 1] in global memory; null: one expert
  int first = 0;                     // row of x, as offsets count, that is row 0 here
  int splits = 1;                    // parts of K, for each of which a block does the tile

  constexpr int count() const { return across * along; }
  constexpr int works() const { return count() * splits; }
};

// Tiles along M, at most: each expert that has rows may waste all but one row of one tile.
constexpr int64_t tiles_across(int64_t m, int64_t experts, int tokens) {
  const int64_t with_rows = m < experts ? m : experts;
  return (m + with_rows * (tokens - 1)) / tokens;
}

// Where a tile is. Its rows of x are token .. token_end(tiles) - 1, as far as it reaches.
template <bool kExperts>
struct Place {
  static constexpr int expert = 0;
  int token, along;

  constexpr int token_end(const Tiles& tiles) const { return tiles.m; }
  constexpr bool exists() const { return true; }
};
template <>
struct Place<true> {
  int expert, token, along;
  int end;

  constexpr int token_end(const Tiles&) const { return end; }
  constexpr bool exists() const { return token < end; }
};

// Blocks that run at the same time should share both operands in the L2 cache, so tiles are walked
// in groups of 8 along one side, `across` of them there, `along` on the other side.
struct Steps {
  int across, along;
};
constexpr Steps steps_to(int tile, int across, int along) {
  constexpr int kGroup = 8;
  const int first = tile / (kGroup * along) * kGroup;
  const int height = across - first < kGroup ? across - first : kGroup;
  const int inside = tile - first * along;
  return {first + inside % height, inside / height};
}

// Tile `index` of tiles.count(), of so many tokens. `load` reads global memory.
template <bool kExperts, class Load>
constexpr Place<kExperts> place_of(const Tiles& tiles, int index, int tokens, const Load& load) {
  if constexpr (kExperts) {
    const auto offset = [&](int expert) {
      const int row = load(tiles.offsets + expert) - tiles.first;
      return row < 0 ? 0 : row < tiles.m ? row : tiles.m;
    };
    int begin = offset(0);
    for (int expert = 0; expert < tiles.experts; ++expert) {
      const int end = offset(expert + 1);
      const int across = (end - begin + tokens - 1) / tokens;
      if (index < across * tiles.along) {
        const Steps at = steps_to(index, across, tiles.along);
        return {expert, begin + at.across * tokens, at.along, end};
      }
      index -= across * tiles.along;
      begin = end;
    }
    return {0, tiles.m, 0, tiles.m};
  } else {
    const Steps at = steps_to(index, tiles.across, tiles.along);
    return {at.across * tokens, at.along};
  }
}

// The same variant of a kernel, compiled for several experts.
template <class V>
struct WithExperts : V {
  static constexpr bool kExperts = true;
};

}  // namespace qcore::tile
