// In which order blocks take the tiles of a product.
#pragma once

namespace qcore {

struct TilePlace {
  int across, along;
};

// Blocks that run at the same time should share both operands in the L2 cache, so tiles are walked
// in groups of 8 along one side, `across` of them there, `along` on the other side.
constexpr TilePlace tile_place(int tile, int across, int along) {
  constexpr int kGroup = 8;
  const int first = tile / (kGroup * along) * kGroup;
  const int height = across - first < kGroup ? across - first : kGroup;
  const int inside = tile - first * along;
  return {first + inside % height, inside / height};
}

}  // namespace qcore
