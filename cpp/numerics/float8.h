// Scalar conversions of 8-bit floats. To nearest even; what is too large becomes NaN (e4m3) or an
// infinity (e5m2), so callers clamp first where they want the largest number.
#pragma once

#include <bit>
#include <cstdint>

#include "numerics/float16.h"
#include "qcore/types.h"

namespace qcore {

constexpr float f32_from_e5m2(uint8_t bits) {
  return f32_from_f16(static_cast<uint16_t>(bits << 8));
}

// Read as a float16 its exponent is 8 too low.
constexpr float f32_from_e4m3(uint8_t bits) {
  if ((bits & 0x7f) == 0x7f) return std::bit_cast<float>(bits & 0x80 ? 0xffc00000u : 0x7fc00000u);
  return f32_from_f16(static_cast<uint16_t>((bits & 0x80) << 8 | (bits & 0x7f) << 7)) * 256.0f;
}

constexpr float f32_from_float8(Float8 type, uint8_t bits) {
  return type == Float8::e4m3 ? f32_from_e4m3(bits) : f32_from_e5m2(bits);
}

// `mantissa` bits, the least normal number 2^`least`; a number that rounds to `limit` (bits without
// sign) or more becomes `beyond`.
constexpr uint8_t float8_from_f32(float value, int mantissa, int least, uint32_t limit,
                                  uint32_t beyond) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (u >> 24) & 0x80u, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint8_t>(sign | 0x7fu);
  const int shift = 23 - mantissa;
  uint32_t bits;
  if (magnitude < static_cast<uint32_t>(127 + least) << 23) {
    // Below the least normal number the step is that of a float around 2^(23 - mantissa + least):
    // adding it rounds.
    const float step = std::bit_cast<float>(static_cast<uint32_t>(127 + shift + least) << 23);
    bits = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + step) -
           std::bit_cast<uint32_t>(step);
  } else {
    const uint32_t half = (1u << (shift - 1)) - 1u + ((magnitude >> shift) & 1u);
    bits = (magnitude + half - (static_cast<uint32_t>(126 + least) << 23)) >> shift;
  }
  return static_cast<uint8_t>(sign | (bits >= limit ? beyond : bits));
}

constexpr uint8_t e4m3_from_f32(float value) {
  return float8_from_f32(value, 3, -6, 0x7f, 0x7f);
}
constexpr uint8_t e5m2_from_f32(float value) {
  return float8_from_f32(value, 2, -14, 0x7c, 0x7c);
}

constexpr uint8_t float8_from_f32(Float8 type, float value) {
  return type == Float8::e4m3 ? e4m3_from_f32(value) : e5m2_from_f32(value);
}

}  // namespace qcore
