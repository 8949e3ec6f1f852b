// Q4_K and Q5_K: 256 codes of 4 or 5 bits; a 6-bit scale and minimum for each 32, themselves scaled
// by two halves.
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

// Eight pairs of 6 bits in twelve bytes. Pairs 0 to 3 are the low 6 bits of bytes 0 to 3 (scales)
// and 4 to 7 (minima), whose top bits are the top bits of pairs 4 to 7. Bytes 8 to 11 hold the low
// nibbles of those: scales low, minima high.
struct SixBitPairs {
  Bytes<12> bytes;

  constexpr int scale(int g) const { return g < 4 ? low(g) : at(g + 4) % 16 | top(g - 4); }
  constexpr int minimum(int g) const { return g < 4 ? low(g + 4) : at(g + 4) / 16 | top(g); }
  constexpr void set(int g, int scale, int minimum) {
    if (g < 4) {
      put(g, (at(g) & 0xc0) | scale);
      put(g + 4, (at(g + 4) & 0xc0) | minimum);
    } else {
      put(g + 4, scale % 16 | minimum % 16 << 4);
      put(g - 4, low(g - 4) | scale >> 4 << 6);
      put(g, low(g) | minimum >> 4 << 6);
    }
  }

 private:
  constexpr int at(int i) const { return bytes[static_cast<size_t>(i)]; }
  constexpr int low(int i) const { return at(i) & 63; }
  constexpr int top(int i) const { return at(i) >> 6 << 4; }
  constexpr void put(int i, int byte) {
    bytes[static_cast<size_t>(i)] = static_cast<uint8_t>(byte);
  }
};

struct Q4_K : Codec<Q4_K, 256, 32, 16, 0, true> {
  static constexpr int kMaxScale = 63;

  Half scale;
  Half minimum;
  SixBitPairs groups;
  Codes<256, Plane<4, 32>> codes;

  constexpr int group_scale(int g) const { return groups.scale(g); }
  constexpr int group_min(int g) const { return groups.minimum(g); }
  constexpr void set_group(int g, int group_scale, int group_min) {
    groups.set(g, group_scale, group_min);
  }
};

struct Q5_K : Codec<Q5_K, 256, 32, 32, 0, true> {
  static constexpr int kMaxScale = 63;

  Half scale;
  Half minimum;
  SixBitPairs groups;
  Codes<256, Plane<1, 32, 4>, Plane<4, 32, 0>> codes;

  constexpr int group_scale(int g) const { return groups.scale(g); }
  constexpr int group_min(int g) const { return groups.minimum(g); }
  constexpr void set_group(int g, int group_scale, int group_min) {
    groups.set(g, group_scale, group_min);
  }
};

}  // namespace qcore::blocks
