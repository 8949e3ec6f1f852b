// Types of tensors, and devices: the vocabulary that every other header uses.
#pragma once

#include <cstdint>
#include <string_view>

#include "qcore/export.h"

namespace QCORE_API qcore {

enum class DType : uint8_t { f32, f16, bf16 };
enum class Device : uint8_t { cpu, cuda };

// Numbers of 8 bits: torch.float8_e4m3fn (bias 7, no infinities, NaN is 0x7f and 0xff, the largest
// 448) and torch.float8_e5m2 (the upper half of a float16, the largest 57344).
enum class Float8 : uint8_t { e4m3, e5m2 };

// What scales are stored in; e8m0 has powers of two alone.
enum class ScaleType : uint8_t { f32, f16, bf16, e4m3, e8m0 };

const char* name(DType dtype);
const char* name(Device device);
const char* name(Float8 type);

constexpr float max_of(Float8 type) {
  return type == Float8::e4m3 ? 448.0f : 57344.0f;
}
constexpr int64_t size_of(DType dtype) {
  return dtype == DType::f32 ? 4 : 2;
}
constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace QCORE_API qcore
