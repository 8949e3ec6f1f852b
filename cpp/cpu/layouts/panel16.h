// Memory layout number 1, "panel16", of an int_group weight, shared by every CPU row: pack, unpack
// and the kernels all compute positions here.
//
// Rows (N) are cut into panels of 16; along K every group is padded to units of 32 columns. A unit,
// 32 columns x 16 rows of b-bit codes, is b vectors of 64 bytes; dword lane r of a vector belongs
// to row r, so one wide load feeds 16 rows. Units are stored [panel][unit along K].
//
// A code is stored centred, as a b-bit two's complement number: code XOR 2^(b-1) decodes to
// code - 2^(b-1). Padding, of rows and of columns, is centred code 0.
//
//   b = 2, 4, 8:  dword v of a row holds columns v * 32/b ..., lowest bits first.
//   b = 3:        dword v of 3 holds columns 10v .. 10v+9 in bits 0..29. The last two columns live
//   in the
//                 bits left over, cut 2 + 1, so that a kernel gets each with two shifts, an AND and
//                 an OR:
//                   column 30 = bits 30, 31 of dword 0, then bit 30 of dword 2
//                   column 31 = bits 30, 31 of dword 1, then bit 31 of dword 2
//
// Scales are [panel][group][16] in their own dtype, bit for bit; zero points u8 [panel][group][16],
// not centred. Both are padded with 0. Integers are little-endian.
//
// Kernels accumulate over segments: at most 4 units of one group (128 columns), counted along K.
#pragma once

#include <algorithm>
#include <cstdint>

#include "qcore/layout.h"

namespace qcore::panel16 {

inline constexpr int kRows = 16;
inline constexpr int kUnitColumns = 32;
inline constexpr int kSegmentUnits = 4;
inline constexpr int kSegmentColumns = kSegmentUnits * kUnitColumns;

constexpr int unit_words(int bits) {
  return bits * 16;
}
constexpr int unit_bytes(int bits) {
  return bits * 64;
}

// Where one group lies along the padded K.
struct Geometry {
  int64_t n, k, group_size, groups;
  int64_t panels;
  int64_t group_units;       // units of every group but the last
  int64_t last_group_units;  // units of the last one
  int64_t group_segments;
  int bits;

  constexpr explicit Geometry(const ScaledWeight& w)
      : n(w.n),
        k(w.k),
        group_size(w.group_size),
        groups(w.groups()),
        panels(ceil_div(w.n, kRows)),
        group_units(ceil_div(w.group_size, kUnitColumns)),
        last_group_units(ceil_div(w.k - (w.groups() - 1) * w.group_size, kUnitColumns)),
        group_segments(ceil_div(group_units, kSegmentUnits)),
        bits(w.bits()) {}

  constexpr int64_t units_of(int64_t group) const {
    return group + 1 < groups ? group_units : last_group_units;
  }
  constexpr int64_t columns_of(int64_t group) const {
    return std::min(group_size, k - group * group_size);
  }
  constexpr int64_t units() const { return (groups - 1) * group_units + last_group_units; }
  constexpr int64_t padded_k() const { return units() * kUnitColumns; }
  constexpr int64_t segments() const {
    return (groups - 1) * group_segments + ceil_div(last_group_units, kSegmentUnits);
  }
  constexpr int64_t panel_bytes() const { return units() * unit_bytes(bits); }
  constexpr int64_t unit_offset(int64_t panel, int64_t unit) const {
    return panel * panel_bytes() + unit * unit_bytes(bits);
  }
  // Of the 16 scales or zero points of a group, in elements.
  constexpr int64_t group_offset(int64_t panel, int64_t group) const {
    return (panel * groups + group) * kRows;
  }
  constexpr int64_t parameters() const { return panels * groups * kRows; }
};

// One segment of K.
struct Segment {
  int64_t group;
  int64_t unit;     // the first one
  int64_t columns;  // padded: units * 32
  int64_t source;   // its first column in the weight
  int64_t real;     // how many columns of the weight it holds
};

constexpr Segment segment_at(const Geometry& g, int64_t index) {
  const int64_t group = index / g.group_segments;
  const int64_t first = index % g.group_segments * kSegmentUnits;  // unit inside the group
  const int64_t units = std::min<int64_t>(kSegmentUnits, g.units_of(group) - first);
  const int64_t inside = first * kUnitColumns;
  return {group, group * g.group_units + first, units * kUnitColumns, group * g.group_size + inside,
          std::min(units * kUnitColumns, g.columns_of(group) - inside)};
}

// The bits of one centred code inside a unit: `count` bits at `shift` of dword `word`, and for the
// last two columns of 3-bit codes one more, the highest, in dword 2.
struct Field {
  int word, shift, count;
  int high_shift;  // -1: the code is not cut
};

constexpr Field field_of(int bits, int column) {
  if (bits == 3) {
    if (column >= 30) return {column - 30, 30, 2, column};
    return {column / 10, column % 10 * 3, 3, -1};
  }
  const int per_word = 32 / bits;
  return {column / per_word, column % per_word * bits, bits, -1};
}

constexpr void put_code(uint32_t* unit, int bits, int column, int row, uint32_t code) {
  const Field f = field_of(bits, column);
  const uint32_t centred = code ^ (1u << (bits - 1));
  unit[f.word * kRows + row] |= (centred & ((1u << f.count) - 1u)) << f.shift;
  if (f.high_shift >= 0) unit[2 * kRows + row] |= (centred >> 2) << f.high_shift;
}

constexpr uint32_t get_code(const uint32_t* unit, int bits, int column, int row) {
  const Field f = field_of(bits, column);
  uint32_t centred = (unit[f.word * kRows + row] >> f.shift) & ((1u << f.count) - 1u);
  if (f.high_shift >= 0) centred |= ((unit[2 * kRows + row] >> f.high_shift) & 1u) << 2;
  return centred ^ (1u << (bits - 1));
}

PackedSizes packed_sizes(const ScaledWeight& shape);
Status pack(const ScaledView& weight, const PackedBuffers& packed, const Executor&);
Status unpack(const PackedScaled& packed, uint8_t* codes, void* scales, uint8_t* zeros,
              const Executor&);

inline constexpr ScaledLayout layout{
    {.number = 1, .name = "panel16", .format = "int_group", .device = Device::cpu},
    packed_sizes,
    pack,
    unpack,
    nullptr,  // not in the memory of a GPU
    nullptr};

}  // namespace qcore::panel16
