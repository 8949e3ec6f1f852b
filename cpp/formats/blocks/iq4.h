// IQ4_NL and IQ4_XS: 4-bit codes that name one of 16 unevenly spaced values. IQ4_NL has 32 of them
// with one scale, IQ4_XS 256 with a signed 6-bit scale for each 32, split into 4 and 2 bits.
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

inline float iq4_value(int code) {
  static constexpr std::array<int8_t, 16> kValues = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                     1,    13,   25,  38,  53,  69,  89,  113};
  return static_cast<float>(kValues[static_cast<size_t>(code)]);
}

struct IQ4_NL {
  Half scale;
  Bytes<16> codes;

  void decode(float* out) const {
    const float d = scale.value();
    for (int i = 0; i < 32; ++i) out[i] = d * iq4_value(code<4, 16>(codes, i));
  }
};

struct IQ4_XS {
  Half scale;
  Bytes<2> groups_high;
  Bytes<4> groups_low;
  Bytes<128> codes;

  void decode(float* out) const {
    for (int g = 0; g < 8; ++g) {
      const int group = code<4, 1>(groups_low, g) | code<2, 1>(groups_high, g) << 4;
      const float d = scale.value() * static_cast<float>(group - 32);
      for (int i = 32 * g; i < 32 * g + 32; ++i) out[i] = d * iq4_value(code<4, 16>(codes, i));
    }
  }
};

}  // namespace qcore::blocks
