// IQ4_NL and IQ4_XS: 4-bit codes that name one of 16 unevenly spaced values. IQ4_NL has 32 of them
// with one scale, IQ4_XS 256 with a signed 6-bit scale for each 32, split into 4 and 2 bits.
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

// -127 -104 -83 -65 -49 -35 -22 -10  1 13 25 38 53 69 89 113, a byte each: a table in memory would
// be out of reach for device code.
constexpr int iq4_value(int code) {
  const uint64_t eight = code < 8 ? 0xf6eaddcfbfad9881u : 0x7159453526190d01u;
  return static_cast<int8_t>(eight >> 8 * (code & 7) & 255u);
}

struct IQ4_NL : Codec<IQ4_NL, 32, 32, 16, 0> {
  Half scale;
  Codes<32, Plane<4, 16>> codes;

  static constexpr int value(int code) { return iq4_value(code); }
};

struct IQ4_XS : Codec<IQ4_XS, 256, 32, 16, 0> {
  static constexpr int kMaxScale = 31;

  Half scale;
  Bytes<2> groups_high;
  Bytes<4> groups_low;
  Codes<256, Plane<4, 16>> codes;

  static constexpr int value(int code) { return iq4_value(code); }
  constexpr int group_scale(int g) const {
    return (Low::get(groups_low.data(), g) | High::get(groups_high.data(), g) << 4) - 32;
  }
  constexpr void set_group(int g, int group_scale) {
    Low::set(groups_low.data(), g, group_scale + 32);
    High::set(groups_high.data(), g, (group_scale + 32) >> 4);
  }

 private:
  using Low = Packing<4, 1>;
  using High = Packing<2, 1>;
};

}  // namespace qcore::blocks
