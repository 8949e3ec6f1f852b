// Blocks to the words of fragment16_blocks (layout.h) and back, on the host and on a GPU.
#pragma once

#include "kquant/layout.h"
#include "ptx/fragments.h"

namespace qcore::kquant {

// What the bytes of TQ1_0 say beside the codes. A byte stands for a number below 243, five digits
// of base 3: bit i tells that byte i is the second one of that number. The last four bytes have
// four codes and a digit more, 2 bits each from bit 52 on.
constexpr int tq1_number(int byte) {
  return byte * 243 >> 8;
}
constexpr int tq1_byte(int number) {
  return (number * 256 + 242) / 243;
}
constexpr uint64_t spare_of(const blocks::TQ1_0& block) {
  uint64_t spare = 0;
  for (int i = 0; i < 52; ++i) {
    const int byte = block.codes.bytes[static_cast<size_t>(i)], number = tq1_number(byte);
    if (byte != tq1_byte(number)) spare |= uint64_t{1} << i;
    if (i >= 48) spare |= static_cast<uint64_t>(number % 3) << (52 + 2 * (i - 48));
  }
  return spare;
}
constexpr void set_spare(blocks::TQ1_0& block, uint64_t spare) {
  for (int i = 0; i < 52; ++i) {
    uint8_t& byte = block.codes.bytes[static_cast<size_t>(i)];
    const int digit = i >= 48 ? static_cast<int>(spare >> (52 + 2 * (i - 48)) & 3) : 0;
    byte =
        static_cast<uint8_t>(tq1_byte(tq1_number(byte) + digit) + static_cast<int>(spare >> i & 1));
  }
}

// Block `index` of the weight [n, k / elements].
template <class Block, class Load>
constexpr void unpack_block(const Geometry& g, const void* packed, int64_t index, const Load& load,
                            Block& block) {
  constexpr Traits kTraits = traits<Block>();
  const int64_t per_row = g.k / Block::kElements;
  const int64_t row = index / per_row, b = index % per_row;
  const int64_t column = b * Block::kElements;
  block = Block{};
  // Counted at run time, so that compilers for GPUs do not unroll these loops: they would be large.
  for (int i = 0; i < g.traits.elements; ++i) {
    block.set_code(i, code_at(kTraits, g, packed, row, column + i, load));
  }
  if constexpr (kTraits.scales != Scales::none) {
    for (int group = 0; group < g.traits.elements / g.traits.group; ++group) {
      set_scales(block, group,
                 scales_at(kTraits, g, packed, row, column + group * Block::kGroup, load));
    }
  }
  set_halves(block, halves_at(kTraits, g, packed, row, b, load));
  if constexpr (kTraits.has_spare) {
    const auto* end = static_cast<const uint8_t*>(packed) +
                      (row / kPanelRows * g.supers + b + 1) * kTraits.super_bytes();
    const auto* words =
        reinterpret_cast<const uint32_t*>(end - kTraits.spare_bytes()) + row % kPanelRows * 2;
    set_spare(block, load(words) | static_cast<uint64_t>(load(words + 1)) << 32);
  }
}

// The 32-bit words of a packed weight. `block_at(row, block)` is a block that exists.
template <class Block, class BlockAt>
class WordPacker {
 public:
  constexpr WordPacker(const Geometry& geometry, const BlockAt& at) : g(geometry), block_at(at) {}

  constexpr uint32_t word(int64_t index) const {
    const int64_t super = index / (kTraits.super_bytes() / 4);
    const int in_super = static_cast<int>(index % (kTraits.super_bytes() / 4)) * 4;
    const int64_t row = super / g.supers * kPanelRows, column = super % g.supers * kSuperColumns;
    const int after_chunks = in_super - kTraits.chunks() * kTraits.chunk_bytes();
    if (after_chunks >= kTraits.halves_bytes()) {
      return spare(row, column, after_chunks - kTraits.halves_bytes());
    }
    if (after_chunks >= 0) return halves(row, column, after_chunks);
    const int chunk = in_super / kTraits.chunk_bytes(), at = in_super % kTraits.chunk_bytes();
    const int64_t first = column + chunk * kTraits.chunk_columns();
    if (at < kTraits.code_bytes()) {
      const int in_span = at % kTraits.span_bytes();
      const int64_t from = first + at / kTraits.span_bytes() * kSpanColumns;
      constexpr int kLowBytes = kTraits.plane_bytes(kTraits.low_bits);
      if (in_span < kLowBytes) return codes<kTraits.low_bits, 0>(row, from, in_span);
      if constexpr (kTraits.high_bits > 0) {
        return codes<kTraits.high_bits, kTraits.low_bits>(row, from, in_span - kLowBytes);
      }
    }
    const int parameters = at - kTraits.code_bytes();
    if constexpr (kTraits.blocks_in_chunks()) return halves(row, first, parameters);
    return scales(row, first, parameters);
  }

 private:
  static constexpr Traits kTraits = traits<Block>();
  static constexpr int kSuperColumns = kTraits.super_columns();

  constexpr bool exists(int64_t row, int64_t column) const { return row < g.n && column < g.k; }

  template <int kBits, int kShift>
  constexpr uint32_t codes(int64_t row0, int64_t column0, int at) const {
    constexpr int kVector = std::min(4, kBits);
    const int index = at / 4, lane = index / kVector % 32;
    const int word = index / kVector / 32 * kVector + index % kVector;
    uint32_t result = 0;
    const int count = 32 / (kShift == 0 ? g.traits.low_bits : g.traits.high_bits);
    for (int i = 0; i < count; ++i) {
      const CodePlace place = place_of(kBits, kShift == 0 && kTraits.table, word, i);
      const fragments::Element e = fragments::a_element(lane, place.element);
      const int64_t row = row0 + place.tile * kTileRows + e.row;
      const int64_t column = column0 + place.step * kStepColumns + e.column;
      if (!exists(row, column)) continue;
      const int code = block_at(row, column / Block::kElements)
                           .code(static_cast<int>(column % Block::kElements));
      result |= (static_cast<uint32_t>(code) >> kShift & ((1u << kBits) - 1)) << (i * kBits);
    }
    return result;
  }

  constexpr uint32_t halves(int64_t row0, int64_t column0, int at) const {
    const int64_t column = column0 + at / kTraits.halves_bytes() * Block::kElements;
    const int word = at % kTraits.halves_bytes() / 4;
    const int pair = kTraits.has_min ? word / 2 : word;
    uint32_t result = 0;
    for (int upper = 0; upper < 2; ++upper) {
      const int64_t row = row0 + pair / 8 * kTileRows + pair % 8 + upper * 8;
      if (!exists(row, column)) continue;
      const Halves both = halves_of<Block>(block_at(row, column / Block::kElements));
      const uint32_t half = kTraits.has_min && word % 2 ? both.min : both.d;
      result |= half << (16 * upper);
    }
    return result;
  }

  constexpr uint32_t scales(int64_t row0, int64_t column0, int at) const {
    uint32_t result = 0;
    if constexpr (kTraits.scales != Scales::none) {
      const int64_t column = column0 + at / kTraits.group_bytes() * Block::kGroup;
      const int in_group = at % kTraits.group_bytes();
      for (int byte = 0; byte < 4; ++byte) {
        const int position = in_group + byte;
        const int pair = position / (2 * bytes_of(kTraits.scales));
        const int64_t row = row0 + pair / 8 * kTileRows + pair % 8 + position % 2 * 8;
        if (!exists(row, column)) continue;
        const int both =
            scales_of<Block>(block_at(row, column / Block::kElements),
                             static_cast<int>(column % Block::kElements) / Block::kGroup);
        const bool second = kTraits.scales == Scales::pair && position % 4 >= 2;
        result |= static_cast<uint32_t>(second ? both >> 8 : both & 255) << (8 * byte);
      }
    }
    return result;
  }

  constexpr uint32_t spare(int64_t row0, int64_t column, int at) const {
    if constexpr (kTraits.has_spare) {
      const int64_t row = row0 + at / 8;
      if (!exists(row, column)) return 0;
      const Block& block = block_at(row, column / Block::kElements);
      return static_cast<uint32_t>(spare_of(block) >> (at % 8 * 8));
    }
    return 0;
  }

  const Geometry& g;
  const BlockAt& block_at;
};

}  // namespace qcore::kquant
