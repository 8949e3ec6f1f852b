// Q2_K: 256 codes of 2 bits; a 4-bit scale and minimum for each 16, themselves scaled by two
// halves.
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

struct Q2_K {
  Bytes<16> groups;  // scale in the low nibble, minimum in the high one
  Bytes<64> codes;
  Half scale;
  Half minimum;

  void decode(float* out) const {
    for (int g = 0; g < 16; ++g) {
      const float d = scale.value() * static_cast<float>(code<4, 1>(groups, 2 * g));
      const float m = minimum.value() * static_cast<float>(code<4, 1>(groups, 2 * g + 1));
      for (int i = 16 * g; i < 16 * g + 16; ++i) {
        out[i] = d * static_cast<float>(code<2, 32>(codes, i)) - m;
      }
    }
  }
};

}  // namespace qcore::blocks
