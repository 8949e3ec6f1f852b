// Scalar conversions of half and bfloat16, for code that may not assume F16C. Both round to nearest
// even.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "qcore/types.h"

namespace qcore {

constexpr float f32_from_bf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

constexpr float f32_from_f16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t rest = bits & 0x7fffu;
  if (rest >= 0x7c00u) {  // infinity and NaN
    return std::bit_cast<float>(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
  }
  // Moved into place, the exponent of a normal number is 112 too low. No subnormal float appears on
  // the way, so the result does not depend on a mode that flushes them.
  const float magnitude = rest < 0x400u ? static_cast<float>(rest) * 0x1p-24f
                                        : std::bit_cast<float>(rest << 13) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

constexpr uint16_t bf16_from_f32(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

constexpr uint16_t f16_from_f32(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  }
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and more
  if (magnitude < 0x38800000u) {
    // Below 2^-14 the step is 2^-24, which is the step of a float in [0.5, 1): adding 0.5 rounds.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

inline float load_scalar(DType dtype, const void* base, int64_t index) {
  if (dtype == DType::f32) {
    float value;
    std::memcpy(&value, static_cast<const char*>(base) + index * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(base) + index * 2, 2);
  return dtype == DType::f16 ? f32_from_f16(bits) : f32_from_bf16(bits);
}

inline void store_scalar(DType dtype, void* base, int64_t index, float value) {
  if (dtype == DType::f32) {
    std::memcpy(static_cast<char*>(base) + index * 4, &value, 4);
    return;
  }
  const uint16_t bits = dtype == DType::f16 ? f16_from_f32(value) : bf16_from_f32(value);
  std::memcpy(static_cast<char*>(base) + index * 2, &bits, 2);
}

}  // namespace qcore
