// Q8_0: 32 signed bytes with one scale.
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

struct Q8_0 {
  Half scale;
  std::array<int8_t, 32> codes;

  void decode(float* out) const {
    const float d = scale.value();
    for (size_t i = 0; i < 32; ++i) out[i] = d * static_cast<float>(codes[i]);
  }
};

}  // namespace qcore::blocks
