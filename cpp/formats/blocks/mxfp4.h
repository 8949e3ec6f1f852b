// MXFP4: 32 numbers of 4 bits (E2M1) with a power of two as scale (E8M0).
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

struct MXFP4 {
  uint8_t exponent;
  Bytes<16> codes;

  void decode(float* out) const {
    // E2M1 twice as large, and so integers; the scale is half of 2^(exponent - 127) instead. Minus
    // zero is read as zero.
    static constexpr std::array<int8_t, 16> kValues = {0, 1,  2,  3,  4,  6,  8,  12,
                                                       0, -1, -2, -3, -4, -6, -8, -12};
    // The two least scales, 2^-128 and 2^-127, are subnormal.
    const uint32_t bits = exponent < 2 ? 0x200000u << exponent : (exponent - 1u) << 23;
    const float d = std::bit_cast<float>(bits);
    for (int i = 0; i < 32; ++i) {
      out[i] = d * static_cast<float>(kValues[static_cast<size_t>(code<4, 16>(codes, i))]);
    }
  }
};

}  // namespace qcore::blocks
