// Q3_K: 256 codes of 3 bits, the highest bits apart; a signed 6-bit scale for each 16, split into 4
// and 2 bits, scaled by one half.
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

struct Q3_K : Codec<Q3_K, 256, 16, 8, -4> {
  static constexpr int kMaxScale = 31;

  Codes<256, Plane<1, 32, 2>, Plane<2, 32, 0>> codes;
  Bytes<8> groups_low;
  Bytes<4> groups_high;
  Half scale;

  constexpr int group_scale(int g) const {
    return (Low::get(groups_low.data(), g) | High::get(groups_high.data(), g) << 4) - 32;
  }
  constexpr void set_group(int g, int group_scale) {
    Low::set(groups_low.data(), g, group_scale + 32);
    High::set(groups_high.data(), g, (group_scale + 32) >> 4);
  }

 private:
  using Low = Packing<4, 8>;
  using High = Packing<2, 4>;
};

}  // namespace qcore::blocks
