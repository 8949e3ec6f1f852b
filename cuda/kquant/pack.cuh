// Packs and unpacks fragment16_blocks in the memory of a GPU, by the functions of layout.h that the
// host packer uses too: the bytes are the same.
#pragma once

#include "kquant/packing.h"
#include "tile/elements.cuh"

namespace qcore::kquant {

struct PackParams {
  Geometry geometry;
  const void* from;
  void* to;
};

// A thread for each 32-bit word of the packed weight.
template <class Block>
struct Pack {
  using Params = PackParams;
  static constexpr int kThreads = tile::kElementThreads, kMinBlocks = 1;

  static int64_t count(const Geometry& g) { return g.bytes() / 4; }
  QCORE_DEVICE static void run(const Params& p) {
    const Geometry& g = p.geometry;
    const int64_t per_row = g.k / Block::kElements;
    const auto block_at = [&](int64_t row, int64_t block) -> decltype(auto) {
      return ptx::global_object<Block>(static_cast<const Block*>(p.from) + row * per_row + block);
    };
    const WordPacker<Block, decltype(block_at)> packer(g, block_at);
    tile::for_each_element(g.bytes() / 4, [&](int64_t i) {
      ptx::store_global(static_cast<uint32_t*>(p.to) + i, packer.word(i));
    });
  }
};

// A thread for each block.
template <class Block>
struct Unpack {
  using Params = PackParams;
  static constexpr int kThreads = tile::kElementThreads, kMinBlocks = 1;

  static int64_t count(const Geometry& g) { return g.blocks(); }
  QCORE_DEVICE static void run(const Params& p) {
    tile::for_each_element(p.geometry.blocks(), [&](int64_t i) {
      ptx::write_global_object<Block>(static_cast<Block*>(p.to) + i, [&](Block& block) {
        unpack_block(p.geometry, p.from, i, GlobalLoad{}, block);
      });
    });
  }
};

}  // namespace qcore::kquant
