// Single numbers and short rows of them in global and shared memory, in any of the three dtypes.
#pragma once

#include "ptx/base.cuh"
#include "qcore/types.h"

namespace qcore {

QCORE_DEVICE int64_t min(int64_t a, int64_t b) {
  return a < b ? a : b;
}
QCORE_DEVICE int min(int a, int b) {
  return a < b ? a : b;
}

// Reads global memory, for functions that host and device share.
struct GlobalLoad {
  template <class T>
  QCORE_DEVICE constexpr T operator()(const T* from) const {
    return ptx::load_global(from);
  }
};

QCORE_DEVICE float float_of(Float8 type, uint32_t bits) {
  if (type == Float8::e5m2) return ptx::to_float<ptx::Half>(bits << 8);
  // Read as fp16 its exponent is 8 too low.
  const uint32_t half = (bits & 0x80) << 8 | (bits & 0x7f) << 7;
  return (bits & 0x7f) == 0x7f ? ptx::float_from_bits(0x7fc00000u)
                               : ptx::to_float<ptx::Half>(half) * 256.0f;
}

struct Pair {
  float first, second;
};

QCORE_DEVICE Pair load_shared_pair(DType dtype, ptx::SharedAddress at) {
  if (dtype == DType::f32) return {ptx::load_shared<float>(at), ptx::load_shared<float>(at + 4)};
  const uint32_t bits = ptx::load_shared<uint32_t>(at);
  if (dtype == DType::f16) {
    return {ptx::to_float<ptx::Half>(bits & 0xffff), ptx::to_float<ptx::Half>(bits >> 16)};
  }
  return {ptx::to_float<ptx::Bfloat>(bits & 0xffff), ptx::to_float<ptx::Bfloat>(bits >> 16)};
}

QCORE_DEVICE float load_element(DType dtype, const void* base, int64_t index) {
  if (dtype == DType::f32) return ptx::load_global(static_cast<const float*>(base) + index);
  const uint16_t bits = ptx::load_global(static_cast<const uint16_t*>(base) + index);
  return dtype == DType::f16 ? ptx::to_float<ptx::Half>(bits) : ptx::to_float<ptx::Bfloat>(bits);
}

QCORE_DEVICE void store_element(DType dtype, void* base, int64_t index, float value) {
  if (dtype == DType::f32) {
    ptx::store_global(static_cast<float*>(base) + index, value);
    return;
  }
  const uint32_t bits =
      dtype == DType::f16 ? ptx::pack2<ptx::Half>(value, 0) : ptx::pack2<ptx::Bfloat>(value, 0);
  ptx::store_global(static_cast<uint16_t*>(base) + index, static_cast<uint16_t>(bits));
}

// 16-byte aligned.
QCORE_DEVICE void store_8_floats(float* to, const float (&value)[8]) {
  QCORE_UNROLL
  for (int v = 0; v < 2; ++v) {
    ptx::Vec16 four;
    QCORE_UNROLL
    for (int j = 0; j < 4; ++j) four.word[j] = ptx::bits_of(value[v * 4 + j]);
    ptx::store_global(reinterpret_cast<ptx::Vec16*>(to) + v, four);
  }
}

QCORE_DEVICE void add_8_floats(ptx::SharedAddress from, float (&sum)[8]) {
  QCORE_UNROLL
  for (int v = 0; v < 2; ++v) {
    const auto four = ptx::load_shared<ptx::Vec16>(from + static_cast<uint32_t>(v * 16));
    QCORE_UNROLL
    for (int j = 0; j < 4; ++j) sum[v * 4 + j] += ptx::float_from_bits(four.word[j]);
  }
}
QCORE_DEVICE void add_8_floats(const float* from, float (&sum)[8]) {
  QCORE_UNROLL
  for (int v = 0; v < 2; ++v) {
    const ptx::Vec16 four = ptx::load_global(reinterpret_cast<const ptx::Vec16*>(from) + v);
    QCORE_UNROLL
    for (int j = 0; j < 4; ++j) sum[v * 4 + j] += ptx::float_from_bits(four.word[j]);
  }
}

// y[token, column .. column + 8) = value + bias, as far as the columns exist. vector_store: both
// may be accessed 16 bytes at a time where all eight do.
template <class T>
QCORE_DEVICE void store_8(void* y, const void* bias, int64_t token, int column, int columns,
                          bool vector_store, float (&value)[8]) {
  const bool whole = vector_store && column + 8 <= columns;
  const uint16_t* addend = static_cast<const uint16_t*>(bias) + column;
  if (bias && whole) {
    const ptx::Vec16 eight = ptx::load_global(reinterpret_cast<const ptx::Vec16*>(addend));
    QCORE_UNROLL
    for (int j = 0; j < 8; ++j) {
      value[j] += ptx::to_float<T>(eight.word[j / 2] >> (j % 2 * 16) & 0xffff);
    }
  } else if (bias) {
    QCORE_UNROLL
    for (int j = 0; j < 8; ++j) {
      if (column + j >= columns) break;
      value[j] += ptx::to_float<T>(ptx::load_global(addend + j));
    }
  }
  uint32_t words[4];
  QCORE_UNROLL
  for (int j = 0; j < 4; ++j) words[j] = ptx::pack2<T>(value[2 * j], value[2 * j + 1]);
  uint16_t* to = static_cast<uint16_t*>(y) + token * columns + column;
  if (whole) {
    ptx::store_global(reinterpret_cast<ptx::Vec16*>(to),
                      ptx::Vec16{{words[0], words[1], words[2], words[3]}});
    return;
  }
  QCORE_UNROLL
  for (int j = 0; j < 8; ++j) {
    if (column + j >= columns) break;
    ptx::store_global(to + j, static_cast<uint16_t>(words[j / 2] >> (j % 2 * 16)));
  }
}

}  // namespace qcore
