// Eight neighbouring numbers of a row: what a thread of the 8-bit kernels loads and stores at once.
#pragma once

#include "ptx/bits8.cuh"
#include "tile/scalars.cuh"

namespace qcore {

QCORE_DEVICE void unpack_8(DType dtype, const ptx::Vec16& bits, float (&value)[8]) {
  QCORE_UNROLL
  for (int j = 0; j < 8; ++j) {
    const uint32_t half = bits.word[j / 2] >> (j % 2 * 16) & 0xffff;
    value[j] =
        dtype == DType::f16 ? ptx::to_float<ptx::Half>(half) : ptx::to_float<ptx::Bfloat>(half);
  }
}

// Elements [index, index + count) of `base` and zeros after them, count up to 8. With `vectors` all
// eight exist, at a multiple of 16 bytes.
QCORE_DEVICE void load_8(DType dtype, const void* base, int64_t index, int count, bool vectors,
                         float (&value)[8]) {
  const char* const at = static_cast<const char*>(base) + index * (dtype == DType::f32 ? 4 : 2);
  const ptx::Vec16* const from = reinterpret_cast<const ptx::Vec16*>(at);
  if (vectors && dtype == DType::f32) {
    QCORE_UNROLL
    for (int v = 0; v < 2; ++v) {
      const ptx::Vec16 four = ptx::load_global(from + v);
      QCORE_UNROLL
      for (int j = 0; j < 4; ++j) value[v * 4 + j] = ptx::float_from_bits(four.word[j]);
    }
  } else if (vectors) {
    unpack_8(dtype, ptx::load_global(from), value);
  } else {
    QCORE_UNROLL
    for (int j = 0; j < 8; ++j) value[j] = j < count ? load_element(dtype, base, index + j) : 0.0f;
  }
}

// The inverse.
QCORE_DEVICE void store_8(DType dtype, void* base, int64_t index, int count, bool vectors,
                          const float (&value)[8]) {
  if (vectors && dtype == DType::f32) {
    store_8_floats(static_cast<float*>(base) + index, value);
  } else if (vectors) {
    ptx::Vec16 bits;
    QCORE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const float low = value[2 * j], high = value[2 * j + 1];
      bits.word[j] = dtype == DType::f16 ? ptx::pack2<ptx::Half>(low, high)
                                         : ptx::pack2<ptx::Bfloat>(low, high);
    }
    ptx::store_global(reinterpret_cast<ptx::Vec16*>(static_cast<uint16_t*>(base) + index), bits);
  } else {
    QCORE_UNROLL
    for (int j = 0; j < 8; ++j) {
      if (j < count) store_element(dtype, base, index + j, value[j]);
    }
  }
}

}  // namespace qcore
