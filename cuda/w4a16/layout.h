// Memory layout number 2, "fragment16", of an int_group weight: what the CUDA kernels read. The
// host packer, the device packer and the kernels all compute positions here.
//
// The weight is operand A of mma.m16n8k16 (rows = N, columns = K), so one warp-wide load of 16
// bytes per lane brings ready fragments, and one packed weight serves every batch size.
//
// Rows are cut into panels of 64, each of 4 tiles of 16 rows. Along K every group is padded to
// halves of 32 columns, and the whole to chunks: 128 columns of 4 bits, 64 of 8 bits. A tile's
// share of a chunk is 1 KB, two blocks of 512 bytes, 16 per lane, stored
// [panel][chunk][tile][block]:
//
//   4 bits (codes of 2, 3 and 4 bits): one block holds 64 columns; word s of a lane is step s (16
//     columns) of them. Element i of the lane's fragment is nibble i / 2 + 4 (i mod 2), so that
//     word & 0x000f000f, shifted by 0, 4, 8, 12 bits, is register 0, 1, 2, 3 of the fragment.
//   8 bits: one block holds 32 columns, two steps; a step is two words, element i is byte i.
//
// Codes are stored as they are, not centred; padding is code 0 and meets activations of 0.
//
// Scales are [panel][group][tile][16] in their own dtype, bit for bit; zero points u8 likewise.
// Inside a tile rows r and r + 8 are neighbours, at 2 r and 2 r + 1, because one lane needs both.
// Padding is 0.
#pragma once

#include <algorithm>
#include <cstdint>

#include "formats/code_order.h"
#include "ptx/fragments.h"
#include "qcore/layout.h"
#include "tile/shape.h"

namespace qcore::w4a16 {

using tile::kStepColumns, tile::kTileRows;

inline constexpr int kPanelRows = 64;
inline constexpr int kTiles = kPanelRows / kTileRows;
inline constexpr int kHalfColumns = 32;
inline constexpr int kLaneBytes = 16;
inline constexpr int kBlockBytes = 32 * kLaneBytes;
inline constexpr int kTileBlocks = 2;
inline constexpr int kTileBytes = kTileBlocks * kBlockBytes;  // of one chunk

constexpr int stored_bits(int bits) {
  return bits <= 4 ? 4 : 8;
}
constexpr int chunk_columns(int bits) {
  return kTileBytes * 8 / kTileRows / stored_bits(bits);
}
constexpr int chunk_halves(int bits) {
  return chunk_columns(bits) / kHalfColumns;
}

struct Geometry {
  int64_t n, k, group_size, groups;
  int64_t panels;
  int64_t group_halves;  // of every group but the last
  int64_t halves;        // along the padded K
  int64_t chunks;
  int bits;  // as stored

  constexpr explicit Geometry(const ScaledWeight& w)
      : n(w.n),
        k(w.k),
        group_size(w.group_size),
        groups(w.groups()),
        panels(ceil_div(w.n, kPanelRows)),
        group_halves(ceil_div(w.group_size, kHalfColumns)),
        halves((groups - 1) * group_halves +
               ceil_div(w.k - (groups - 1) * w.group_size, kHalfColumns)),
        chunks(ceil_div(halves, chunk_halves(w.bits()))),
        bits(stored_bits(w.bits())) {}

  // Where column k of the weight lies, and which column lies at a padded one (-1: padding).
  constexpr int64_t padded_column(int64_t column) const {
    const int64_t group = column / group_size;
    return group * group_halves * kHalfColumns + column - group * group_size;
  }
  constexpr int64_t source_column(int64_t padded) const {
    const int64_t group = padded / (group_halves * kHalfColumns);
    const int64_t inside = padded - group * group_halves * kHalfColumns;
    const int64_t column = group * group_size + inside;
    return group < groups && inside < group_size && column < k ? column : -1;
  }
  // Whether padding moves any column: if not, activations are read where they are.
  constexpr bool columns_move() const { return groups > 1 && group_size % kHalfColumns != 0; }

  constexpr int64_t padded_k() const { return chunks * chunk_columns(bits); }
  constexpr int64_t qweight_bytes() const { return panels * chunks * kTiles * kTileBytes; }
  constexpr int64_t parameters() const { return panels * groups * kPanelRows; }
  constexpr int64_t parameter(int64_t row, int64_t group) const {
    const int64_t r = row % kTileRows;
    return ((row / kPanelRows * groups + group) * kTiles + row % kPanelRows / kTileRows) *
               kTileRows +
           r % 8 * 2 + r / 8;
  }
};

// The 32-bit words of a packed weight, in memory order: what one word holds.
struct Word {
  int64_t row0;    // of its tile
  int64_t column;  // padded, of its step
  int lane;
  int first;  // element of the lane's fragment that the lowest bits hold
};

constexpr int codes_per_word(int bits) {
  return 32 / stored_bits(bits);
}

constexpr Word word_at(const Geometry& g, int64_t index) {
  constexpr int kTileWords = kTileBytes / 4, kBlockWords = kBlockBytes / 4;
  const int in_tile = static_cast<int>(index % kTileWords);
  const int64_t tile = index / kTileWords;
  const int block = in_tile / kBlockWords, lane = in_tile % kBlockWords / 4, word = in_tile % 4;
  const int step = g.bits == 4 ? block * 4 + word : block * 2 + word / 2;
  return {
      .row0 = tile / (g.chunks * kTiles) * kPanelRows + tile % kTiles * kTileRows,
      .column = tile / kTiles % g.chunks * chunk_columns(g.bits) + step * kStepColumns,
      .lane = lane,
      .first = g.bits == 4 ? 0 : word % 2 * 4,
  };
}

// Element of the fragment that the code at position j of a word (lowest bits first) is.
constexpr int element_at(const Geometry& g, const Word& word, int j) {
  return g.bits == 4 ? j % 4 * 2 + j / 4 : word.first + j;
}

// Where one code is.
struct CodePlace {
  int64_t byte;
  int shift;  // of the code in that byte
};

constexpr CodePlace place_of(const Geometry& g, int64_t row, int64_t padded) {
  const int r = static_cast<int>(row % kTileRows), c = static_cast<int>(padded % kStepColumns);
  const int lane = r % 8 * 4 + c % 8 / 2;
  const int i = (c & 1) + (r >= 8 ? 2 : 0) + (c >= 8 ? 4 : 0);
  const int64_t chunk = padded / chunk_columns(g.bits);
  const int step = static_cast<int>(padded % chunk_columns(g.bits)) / kStepColumns;
  const int64_t tile =
      (row / kPanelRows * g.chunks + chunk) * kTiles + row % kPanelRows / kTileRows;
  const int64_t base = tile * kTileBytes + lane * kLaneBytes;
  if (g.bits == 8) return {base + step / 2 * kBlockBytes + step % 2 * 8 + i, 0};
  const int nibble = i / 2 + 4 * (i % 2);
  return {base + step / 4 * kBlockBytes + step % 4 * 4 + nibble / 2, nibble % 2 * 4};
}

// Word `index` of the packed weight. `bad(n, k)` is told of a code that is too large.
template <class Load, class Bad>
constexpr uint32_t pack_word(const Geometry& g, const ScaledWeight& shape, const CodeSource& source,
                             int64_t index, const Load& load, const Bad& bad) {
  const Word word = word_at(g, index);
  uint32_t bits = 0;
  for (int j = 0; j < codes_per_word(g.bits); ++j) {
    const fragments::Element e = fragments::a_element(word.lane, element_at(g, word, j));
    const int64_t n = word.row0 + e.row;
    const int64_t k = g.source_column(word.column + e.column);
    if (n >= g.n || k < 0) continue;
    const uint32_t limit = 1u << shape.bits();
    const uint32_t code = code_at(source, shape, n, k, load);
    if (code >= limit) bad(n, k);
    bits |= (code & (limit - 1)) << (j * g.bits);
  }
  return bits;
}

template <class Load>
constexpr uint8_t unpack_code(const Geometry& g, const void* qweight, int64_t n, int64_t k,
                              const Load& load) {
  const CodePlace place = place_of(g, n, g.padded_column(k));
  const unsigned byte = load(static_cast<const uint8_t*>(qweight) + place.byte);
  return static_cast<uint8_t>(byte >> place.shift & ((1u << g.bits) - 1u));
}

// Parameter `index` of the packed ones comes from [n, group]; n >= g.n: padding.
struct Parameter {
  int64_t n, group;
};
constexpr Parameter parameter_at(const Geometry& g, int64_t index) {
  const int64_t in_tile = index % kTileRows, tile = index / kTileRows;
  return {tile / (g.groups * kTiles) * kPanelRows + tile % kTiles * kTileRows + in_tile % 2 * 8 +
              in_tile / 2,
          tile / kTiles % g.groups};
}

PackedSizes packed_sizes(const ScaledWeight& shape);
Status pack(const ScaledView& weight, const PackedBuffers& packed, const Executor&);
Status unpack(const PackedScaled& packed, uint8_t* codes, void* scales, uint8_t* zeros,
              const Executor&);
// In the memory of a GPU: pack.cu.
Status cuda_pack(const ScaledView& weight, const PackedBuffers& packed, const Executor&);
Status cuda_unpack(const PackedScaled& packed, uint8_t* codes, void* scales, uint8_t* zeros,
                   const Executor&);

extern const ScaledLayout layout;

}  // namespace qcore::w4a16
