// Q2_K: 256 codes of 2 bits; a 4-bit scale and minimum for each 16, themselves scaled by two
// halves.
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

struct Q2_K : Codec<Q2_K, 256, 16, 4, 0, true> {
  static constexpr int kMaxScale = 15;

  Bytes<16> groups;  // scale in the low nibble, minimum in the high one
  Codes<256, Plane<2, 32>> codes;
  Half scale;
  Half minimum;

  constexpr int group_scale(int g) const { return groups[static_cast<size_t>(g)] & 15; }
  constexpr int group_min(int g) const { return groups[static_cast<size_t>(g)] >> 4; }
  constexpr void set_group(int g, int group_scale, int group_min) {
    groups[static_cast<size_t>(g)] = static_cast<uint8_t>(group_scale | group_min << 4);
  }
};

}  // namespace qcore::blocks
