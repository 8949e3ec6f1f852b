// The packed layout of block formats on the CPU, number 3: the bytes of the blocks, rearranged so
// that one wide load reads the same field of the blocks of 16 rows.
//
// Rows are taken in panels of 16, the last one filled up with zero bytes. A block is a few dwords
// and at most two bytes more (a half, or the exponent of MXFP4). First come, for each panel and
// each block of K, the dwords: dword i of row r at 64 * i + 4 * r, so that they stay aligned to
// cache lines. They stand in the order in which a kernel reads them: where it had to jump inside a
// block, the hardware did not prefetch, and Q6_K ran at half the speed. Then come, for each panel
// and each block of K, the bytes that are left of the 16 rows, side by side.
#pragma once

#include <array>
#include <cstdint>

#include "qcore/layout.h"

namespace qcore::block16 {

inline constexpr int kRows = 16;
inline constexpr int kMaxDwords = 52;

// The fields of one block.
struct Fields {
  int dwords = 0;
  std::array<uint8_t, kMaxDwords> offset = {};  // of each dword in the block
  int rest = 0;                                 // bytes besides: 0, 1 or 2
  int rest_offset = 0;
};

Fields fields_of(const BlockFormat& format);

struct Geometry {
  explicit Geometry(const BlockShape& w)
      : n(w.n),
        blocks(w.blocks_per_row()),
        panels(ceil_div(w.n, kRows)),
        dword_bytes(w.format->bytes / 4 * 4 * kRows),
        rest_bytes(w.format->bytes % 4 * kRows) {}

  int64_t n, blocks, panels;
  int64_t dword_bytes, rest_bytes;  // of one block of a panel

  int64_t bytes() const { return panels * blocks * (dword_bytes + rest_bytes); }
  int64_t dwords_at(int64_t panel, int64_t block) const {
    return (panel * blocks + block) * dword_bytes;
  }
  int64_t rest_at(int64_t panel, int64_t block) const {
    return panels * blocks * dword_bytes + (panel * blocks + block) * rest_bytes;
  }
};

int64_t packed_bytes(const BlockShape& shape);
Status pack(const BlockShape& shape, const void* blocks, void* packed, const Executor&);
Status unpack(const PackedBlocks& packed, void* blocks, const Executor&);

inline constexpr BlockLayout layout{
    {.number = 3, .name = "block16", .format = "blocks", .device = Device::cpu},
    packed_bytes,
    pack,
    unpack,
    nullptr,  // not in the memory of a GPU
    nullptr};

}  // namespace qcore::block16
