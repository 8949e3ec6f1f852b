// Q3_K: 256 codes of 3 bits, the highest bits apart; a signed 6-bit scale for each 16, split into 4
// and 2 bits, scaled by one half.
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

struct Q3_K {
  Bytes<32> high;
  Bytes<64> low;
  Bytes<8> groups_low;
  Bytes<4> groups_high;
  Half scale;

  void decode(float* out) const {
    for (int g = 0; g < 16; ++g) {
      const int group = code<4, 8>(groups_low, g) | code<2, 4>(groups_high, g) << 4;
      const float d = scale.value() * static_cast<float>(group - 32);
      for (int i = 16 * g; i < 16 * g + 16; ++i) {
        const int q = code<2, 32>(low, i) | code<1, 32>(high, i) << 2;
        out[i] = d * static_cast<float>(q - 4);
      }
    }
  }
};

}  // namespace qcore::blocks
