// MXFP4: 32 numbers of 4 bits (E2M1) with a power of two as scale (E8M0).
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

struct MXFP4 : Codec<MXFP4, 32, 32, 16, 0> {
  uint8_t exponent;
  Codes<32, Plane<4, 16>> codes;

  // E2M1 twice as large, and so integers: 0 1 2 3 4 6 8 12, then the same negative. Minus zero is
  // read as zero.
  static constexpr int value(int code) {
    const int magnitude = static_cast<int>(0xc8643210u >> 4 * (code & 7) & 15u);
    return code & 8 ? -magnitude : magnitude;
  }
  // Half of 2^(exponent - 127). The two least scales, 2^-128 and 2^-127, are subnormal.
  constexpr float d() const {
    const uint32_t bits = exponent < 2 ? 0x200000u << exponent : (exponent - 1u) << 23;
    return std::bit_cast<float>(bits);
  }
  constexpr void set_d(float d) {  // a power of two, at least 2^-128
    const uint32_t bits = std::bit_cast<uint32_t>(d);
    exponent = static_cast<uint8_t>(bits >= 0x800000u ? (bits >> 23) + 1 : bits / 0x400000u);
  }
};

}  // namespace qcore::blocks
