// Q6_K: 256 codes of 6 bits, split into 4 and 2; a signed byte as the scale of each 16, scaled by
// one half.
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

struct Q6_K : Codec<Q6_K, 256, 16, 64, -32> {
  static constexpr int kMaxScale = 127;

  Codes<256, Plane<4, 64, 0>, Plane<2, 32, 4>> codes;
  std::array<int8_t, 16> groups;
  Half scale;

  constexpr int group_scale(int g) const { return groups[static_cast<size_t>(g)]; }
  constexpr void set_group(int g, int group_scale) {
    groups[static_cast<size_t>(g)] = static_cast<int8_t>(group_scale);
  }
};

}  // namespace qcore::blocks
