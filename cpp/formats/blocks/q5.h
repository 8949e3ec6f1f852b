// Q5_0 and Q5_1: 32 codes of 5 bits, the highest bits apart, with one scale; Q5_1 adds a minimum.
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

struct Q5_0 : Codec<Q5_0, 32, 32, 32, -16> {
  Half scale;
  Codes<32, Plane<1, 1, 4>, Plane<4, 16, 0>> codes;
};

// The stored minimum is added.
struct Q5_1 : Codec<Q5_1, 32, 32, 32, 0, true> {
  Half scale;
  Half minimum;
  Codes<32, Plane<1, 1, 4>, Plane<4, 16, 0>> codes;

  constexpr float dmin() const { return -minimum.value(); }
  constexpr void set_dmin(float dmin) { minimum.set(-dmin); }
  constexpr int group_min(int) const { return 1; }
};

}  // namespace qcore::blocks
