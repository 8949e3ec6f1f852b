// How tiles are shared out among blocks that stay: whole tiles in turn, and the rest cut evenly
// along K. The host cuts, the kernel reads the same Split.
#pragma once

#include <algorithm>
#include <cstdint>

namespace qcore::tile {

// One block's part of one tile: all of it, or chunks [first, end) whose sums go to a slot of the
// workspace.
struct Segment {
  int tile, first, end;
  int slot;  // -1: all of the tile

  constexpr bool whole() const { return slot < 0; }
};

// Tiles below `whole` are taken in turn, each by one block. The others are laid end to end along K
// and cut into `sharing` equal lengths, one for each of as many blocks, so that no multiprocessor
// waits for others. A length begins and ends inside of tiles: two slots for each.
struct Split {
  int tiles, chunks;
  int blocks;  // of the launch
  int whole, sharing;

  constexpr int64_t shared_chunks() const { return int64_t{tiles - whole} * chunks; }
  // Where the length of a block begins, 0 .. sharing.
  constexpr int64_t begin(int block) const { return shared_chunks() * block / sharing; }

  // The part of shared tile `tile` that a block has, if any: first < end.
  constexpr Segment part(int tile, int block) const {
    const int64_t tile_begin = int64_t{tile - whole} * chunks, tile_end = tile_begin + chunks;
    const int64_t first = std::max(begin(block), tile_begin);
    const int64_t end = std::min(begin(block + 1), tile_end);
    const bool all = first == tile_begin && end == tile_end;
    return {tile, static_cast<int>(first - tile_begin), static_cast<int>(end - tile_begin),
            all ? -1 : block * 2 + (first == begin(block) ? 0 : 1)};
  }
  // Whose length has shared chunk `at`: a chunk of a tile, counted from the first shared one.
  constexpr int sharer(int64_t at) const {
    int block = static_cast<int>(at * sharing / shared_chunks());
    while (begin(block + 1) <= at) ++block;
    return block;
  }
};

// What one block does, in order.
class Segments {
 public:
  constexpr Segments(const Split& split, int block)
      : split_(split), block_(block), tile_(block), shared_(block < split.sharing) {}

  constexpr bool next(Segment& segment) {
    if (tile_ < split_.whole) {
      segment = {tile_, 0, split_.chunks, -1};
      tile_ += split_.blocks;
      return true;
    }
    if (!shared_) return false;
    if (!begun_) {
      tile_ = split_.whole + static_cast<int>(split_.begin(block_) / split_.chunks);
      begun_ = true;
    }
    if (tile_ >= split_.tiles) return false;
    segment = split_.part(tile_++, block_);
    return segment.first < segment.end;
  }

 private:
  const Split& split_;
  int block_, tile_;
  bool shared_, begun_ = false;
};

}  // namespace qcore::tile
