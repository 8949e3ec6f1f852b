// Q5_0 and Q5_1: 32 codes of 5 bits, the highest bits apart, with one scale; Q5_1 adds a minimum.
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

struct Q5_0 {
  Half scale;
  Bytes<4> high;
  Bytes<16> low;

  void decode(float* out) const {
    const float d = scale.value();
    for (int i = 0; i < 32; ++i) {
      const int q = code<4, 16>(low, i) | code<1, 1>(high, i) << 4;
      out[i] = d * static_cast<float>(q - 16);
    }
  }
};

struct Q5_1 {
  Half scale;
  Half minimum;
  Bytes<4> high;
  Bytes<16> low;

  void decode(float* out) const {
    const float d = scale.value();
    const float m = minimum.value();
    for (int i = 0; i < 32; ++i) {
      const int q = code<4, 16>(low, i) | code<1, 1>(high, i) << 4;
      out[i] = d * static_cast<float>(q) + m;
    }
  }
};

}  // namespace qcore::blocks
