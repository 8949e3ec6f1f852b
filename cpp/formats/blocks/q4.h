// Q4_0 and Q4_1: 32 codes of 4 bits with one scale; Q4_1 adds a minimum.
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

struct Q4_0 {
  Half scale;
  Bytes<16> codes;

  void decode(float* out) const {
    const float d = scale.value();
    for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(code<4, 16>(codes, i) - 8);
  }
};

struct Q4_1 {
  Half scale;
  Half minimum;
  Bytes<16> codes;

  void decode(float* out) const {
    const float d = scale.value();
    const float m = minimum.value();
    for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(code<4, 16>(codes, i)) + m;
  }
};

}  // namespace qcore::blocks
