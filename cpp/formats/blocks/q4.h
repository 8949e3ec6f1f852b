// Q4_0 and Q4_1: 32 codes of 4 bits with one scale; Q4_1 adds a minimum.
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

struct Q4_0 : Codec<Q4_0, 32, 32, 16, -8> {
  Half scale;
  Codes<32, Plane<4, 16>> codes;
};

// The stored minimum is added.
struct Q4_1 : Codec<Q4_1, 32, 32, 16, 0, true> {
  Half scale;
  Half minimum;
  Codes<32, Plane<4, 16>> codes;

  constexpr float dmin() const { return -minimum.value(); }
  constexpr void set_dmin(float dmin) { minimum.set(-dmin); }
  constexpr int group_min(int) const { return 1; }
};

}  // namespace qcore::blocks
