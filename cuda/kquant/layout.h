// Memory layout number 4, "fragment16_blocks", of a weight in blocks of GGUF: what the CUDA kernels
// read. The host packer, the device packer and the kernels all compute positions here.
//
// The weight is operand A of mma.m16n8k16 (rows = N, columns = K), as in fragment16. Rows are cut
// into panels of 32, the rows of a warp, each of 2 tiles of 16; K into chunks, what a warp copies
// at a time: 128 columns, 64 for codes of 6 and 8 bits. Rows and columns beyond the weight are zero
// bytes. [panel][superblock], a superblock being a block of 256 columns, or for blocks of 32 a
// chunk:
//
//   for each chunk of it:
//     for each 32 columns (2 steps of 16) the low bits of the codes (2, 4 or 8), then the high bits
//       (none, 1 or 2); such a plane of b bits has b words for every lane, in vectors of at most 16
//       bytes: [vector][lane]
//     for each group its integers: [tile][8 pairs of rows r and r + 8, because one lane needs both]
//       of two bytes (scale + 128, or scale and minimum in two nibbles), or four: two scales, two
//       minima; none if groups have no scale of their own
//     blocks of 32: the halves of each block, as below
//   blocks of 256: the halves, [tile][pair of rows]: two scales d, then two minima, whose sign is
//     such that they are added. MXFP4 has no half: its d is a bfloat.
//   TQ1_0: 8 bytes for each row, what its bytes say beside the codes, which kernels do not read
//
// In a plane of b bits, register j of the fragment at step s has its two codes 16 bits apart, as
// codes 4 s + j of the two halves of its tile's words, lowest bits first. Codes that name a value
// of a table are different: code i of the fragment is nibble i, as a lookup wants them.
//
// Nothing is lost but what a byte of TQ1_0 says beside its five digits: of 256 bytes 243 are used.
#pragma once

#include <algorithm>
#include <cstdint>

#include "formats/blocks/blocks.h"
#include "qcore/types.h"
#include "tile/shape.h"

namespace qcore::kquant {

using tile::kStepColumns, tile::kTileRows;

inline constexpr int kPanelRows = 32;
inline constexpr int kTiles = kPanelRows / kTileRows;
inline constexpr int kSpanColumns = 32;  // that a plane's words hold
inline constexpr int kSpanSteps = kSpanColumns / kStepColumns;

// The integers of a group, for one row: none; a byte, the scale + 128; a byte, scale and minimum in
// its nibbles; two bytes, scale and minimum.
enum class Scales : uint8_t { none, one, nibbles, pair };

constexpr int bytes_of(Scales scales) {
  return scales == Scales::none ? 0 : scales == Scales::pair ? 2 : 1;
}

// What the layout and the kernels know of a format.
struct Traits {
  int elements, bytes;  // of a block
  int group;            // elements
  int low_bits, high_bits;
  Scales scales;
  bool has_min, table, bfloat_d, has_spare;
  int zero;  // the code that means 0, unless a table says it

  constexpr int bits() const { return low_bits + high_bits; }
  constexpr int chunk_columns() const { return bits() < 6 ? 128 : 64; }
  constexpr int super_columns() const { return std::max(elements, chunk_columns()); }
  constexpr int chunks() const { return super_columns() / chunk_columns(); }  // of a superblock
  constexpr bool blocks_in_chunks() const { return elements < chunk_columns(); }
  // Of 32 rows:
  constexpr int plane_bytes(int plane_bits) const {
    return kPanelRows * kSpanColumns / 8 * plane_bits;
  }
  constexpr int span_bytes() const { return plane_bytes(bits()); }
  constexpr int code_bytes() const { return chunk_columns() / kSpanColumns * span_bytes(); }
  constexpr int group_bytes() const { return kPanelRows * bytes_of(scales); }
  constexpr int scale_bytes() const { return chunk_columns() / group * group_bytes(); }
  constexpr int halves_bytes() const { return kPanelRows * (has_min ? 4 : 2); }
  constexpr int chunk_bytes() const {
    return code_bytes() +
           (blocks_in_chunks() ? chunk_columns() / elements * halves_bytes() : scale_bytes());
  }
  constexpr int spare_bytes() const { return has_spare ? kPanelRows * 8 : 0; }
  constexpr int super_bytes() const {
    return chunks() * chunk_bytes() + (blocks_in_chunks() ? 0 : halves_bytes()) + spare_bytes();
  }
};

template <class Block>
constexpr Traits traits() {
  constexpr int kLast = Block::kCodes - 1;
  constexpr bool kEven = Block::value(kLast) - Block::value(0) == kLast;
  int bits = 1;
  while (kLast >> bits) ++bits;
  const int low = bits == 8 ? 8 : bits >= 4 ? 4 : 2;
  return {.elements = Block::kElements,
          .bytes = static_cast<int>(sizeof(Block)),
          .group = Block::kGroup,
          .low_bits = low,
          .high_bits = bits - low,
          .scales = Block::kGroup == Block::kElements ? Scales::none
                    : !Block::kHasMin                 ? Scales::one
                    : Block::kGroup == 16             ? Scales::nibbles
                                                      : Scales::pair,
          .has_min = Block::kHasMin,
          .table = !kEven,
          .bfloat_d = requires(const Block& block) { block.exponent; },
          .has_spare = bits == 2 && kLast == 2,
          .zero = kEven ? -Block::value(0) : 0};
}

struct Geometry {
  Traits traits;
  int64_t n, k;
  int64_t panels, supers;  // along N and K

  constexpr Geometry(const Traits& t, int64_t rows, int64_t columns)
      : traits(t),
        n(rows),
        k(columns),
        panels(ceil_div(rows, kPanelRows)),
        supers(ceil_div(columns, t.super_columns())) {}

  constexpr int64_t chunks() const { return supers * traits.chunks(); }
  constexpr int64_t padded_k() const { return supers * traits.super_columns(); }
  constexpr int64_t bytes() const { return panels * supers * traits.super_bytes(); }
  constexpr int64_t blocks_per_row() const { return k / traits.elements; }
  constexpr int64_t blocks() const { return n * blocks_per_row(); }
};

// ---- Codes

// Where a code lies among the lane's words of its plane.
struct Bits {
  int word, shift;
};
constexpr Bits bits_of(int bits, bool table, int tile, int step, int element) {
  if (table) return {tile * kSpanSteps + step, element * 4};
  const int slot = (tile * kSpanSteps + step) * 4 + element / 2, per_half = 16 / bits;
  return {slot / per_half, slot % per_half * bits + element % 2 * 16};
}

// The other way: whose code number `code` of a word is, lowest bits first.
struct CodePlace {
  int tile, step, element;
};
constexpr CodePlace place_of(int bits, bool table, int word, int code) {
  if (table) return {word / kSpanSteps, word % kSpanSteps, code};
  const int per_half = 16 / bits, slot = word * per_half + code % per_half;
  return {slot / (kSpanSteps * 4), slot / 4 % kSpanSteps, slot % 4 * 2 + code / per_half};
}

// A lane's word in a plane of `bits` bits, in bytes.
constexpr int word_offset(int bits, int word, int lane) {
  const int vector = std::min(4, bits);
  return ((word / vector * 32 + lane) * vector + word % vector) * 4;
}

// These take g.traits apart, so that what knows them when it is compiled divides by constants.
constexpr int64_t chunk_offset(const Traits& t, const Geometry& g, int64_t panel, int64_t chunk) {
  return (panel * g.supers + chunk / t.chunks()) * t.super_bytes() +
         chunk % t.chunks() * t.chunk_bytes();
}

template <class Load>
constexpr int code_at(const Traits& t, const Geometry& g, const void* packed, int64_t row,
                      int64_t column, const Load& load) {
  const int r = static_cast<int>(row % kTileRows), c = static_cast<int>(column % kStepColumns);
  const int tile = static_cast<int>(row % kPanelRows) / kTileRows;
  const int in_chunk = static_cast<int>(column % t.chunk_columns());
  const int lane = r % 8 * 4 + c % 8 / 2;
  const int element = (c & 1) + (r >= 8 ? 2 : 0) + (c >= 8 ? 4 : 0);
  const auto* span = static_cast<const uint8_t*>(packed) +
                     chunk_offset(t, g, row / kPanelRows, column / t.chunk_columns()) +
                     in_chunk / kSpanColumns * t.span_bytes();
  const auto plane = [&](int first, int bits, bool table) {
    const Bits at = bits_of(bits, table, tile, in_chunk % kSpanColumns / kStepColumns, element);
    const int word = first + word_offset(bits, at.word, lane);
    const uint32_t value = load(reinterpret_cast<const uint32_t*>(span + word));
    return static_cast<int>(value >> at.shift & ((1u << bits) - 1));
  };
  const int low = plane(0, t.low_bits, t.table);
  if (t.high_bits == 0) return low;
  return low | plane(t.plane_bytes(t.low_bits), t.high_bits, false) << t.low_bits;
}

// ---- Scales and halves

// Two 16-bit halves of a block, as they are packed.
struct Halves {
  uint16_t d, min;
};

template <class Block>
constexpr Halves halves_of(const Block& block) {
  if constexpr (traits<Block>().bfloat_d) {
    const int e = block.exponent;
    return {static_cast<uint16_t>(e < 2 ? 0x20 << e : (e - 1) << 7), 0};
  } else {
    const auto bits = [](const auto& half) {
      return static_cast<uint16_t>(half.little_endian[0] | half.little_endian[1] << 8);
    };
    Halves halves{bits(block.scale), 0};
    if constexpr (Block::kHasMin) {
      // Blocks of 256 subtract theirs.
      halves.min =
          static_cast<uint16_t>(bits(block.minimum) ^ (Block::kElements > 32 ? 0x8000 : 0));
    }
    return halves;
  }
}

template <class Block>
constexpr void set_halves(Block& block, Halves halves) {
  if constexpr (traits<Block>().bfloat_d) {
    block.exponent = static_cast<uint8_t>(halves.d < 0x80 ? halves.d >> 6 : (halves.d >> 7) + 1);
  } else {
    const auto set = [](auto& half, int bits) {
      half.little_endian = {static_cast<uint8_t>(bits & 255), static_cast<uint8_t>(bits >> 8)};
    };
    set(block.scale, halves.d);
    if constexpr (Block::kHasMin) {
      set(block.minimum, halves.min ^ (Block::kElements > 32 ? 0x8000 : 0));
    }
  }
}

// The integers of a group as they are packed: the first byte, the second one above it.
template <class Block>
constexpr int scales_of(const Block& block, int group) {
  constexpr Scales kScales = traits<Block>().scales;
  if constexpr (kScales == Scales::none) return 0;
  if constexpr (kScales == Scales::one) return block.group_scale(group) + 128;
  return block.group_scale(group) | block.group_min(group) << (kScales == Scales::pair ? 8 : 4);
}

template <class Block>
constexpr void set_scales(Block& block, int group, int scales) {
  constexpr Scales kScales = traits<Block>().scales;
  if constexpr (kScales == Scales::one) block.set_group(group, scales - 128);
  if constexpr (kScales == Scales::nibbles) block.set_group(group, scales & 15, scales >> 4);
  if constexpr (kScales == Scales::pair) block.set_group(group, scales & 255, scales >> 8);
}

// Byte offsets, from the start of a panel's chunk or superblock, for the pair that `row` is in.
constexpr int pair_of(int64_t row) {
  return static_cast<int>(row % kPanelRows / kTileRows * 8 + row % 8);
}
constexpr int upper_of(int64_t row) {  // which of the pair
  return static_cast<int>(row % kTileRows / 8);
}
constexpr int64_t halves_offset(const Traits& t, const Geometry& g, int64_t row, int64_t block) {
  const int64_t panel = row / kPanelRows;
  const int64_t pair = int64_t{pair_of(row)} * (t.has_min ? 8 : 4);
  if (!t.blocks_in_chunks()) {
    return (panel * g.supers + block) * t.super_bytes() + t.chunks() * t.chunk_bytes() + pair;
  }
  const int per_chunk = t.chunk_columns() / t.elements;
  return chunk_offset(t, g, panel, block / per_chunk) + t.code_bytes() +
         block % per_chunk * t.halves_bytes() + pair;
}
constexpr int64_t scales_offset(const Traits& t, const Geometry& g, int64_t row, int64_t column) {
  return chunk_offset(t, g, row / kPanelRows, column / t.chunk_columns()) + t.code_bytes() +
         column % t.chunk_columns() / t.group * t.group_bytes() +
         int64_t{pair_of(row)} * 2 * bytes_of(t.scales);
}

template <class Load>
constexpr Halves halves_at(const Traits& t, const Geometry& g, const void* packed, int64_t row,
                           int64_t block, const Load& load) {
  const auto* at = reinterpret_cast<const uint16_t*>(static_cast<const uint8_t*>(packed) +
                                                     halves_offset(t, g, row, block));
  const int upper = upper_of(row);
  return {load(at + upper), t.has_min ? load(at + 2 + upper) : uint16_t{0}};
}

template <class Load>
constexpr int scales_at(const Traits& t, const Geometry& g, const void* packed, int64_t row,
                        int64_t column, const Load& load) {
  const uint8_t* at =
      static_cast<const uint8_t*>(packed) + scales_offset(t, g, row, column) + upper_of(row);
  return t.scales == Scales::pair ? load(at) | load(at + 2) << 8 : load(at);
}

}  // namespace qcore::kquant
