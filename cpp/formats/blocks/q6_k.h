// Q6_K: 256 codes of 6 bits, split into 4 and 2; a signed byte as the scale of each 16, scaled by
// one half.
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

struct Q6_K {
  Bytes<128> low;
  Bytes<64> high;
  std::array<int8_t, 16> groups;
  Half scale;

  void decode(float* out) const {
    for (int g = 0; g < 16; ++g) {
      const float d = scale.value() * static_cast<float>(groups[static_cast<size_t>(g)]);
      for (int i = 16 * g; i < 16 * g + 16; ++i) {
        const int q = code<4, 64>(low, i) | code<2, 32>(high, i) << 4;
        out[i] = d * static_cast<float>(q - 32);
      }
    }
  }
};

}  // namespace qcore::blocks
