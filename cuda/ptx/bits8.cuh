// Instructions for 8-bit elements on every card, and the meeting point of a whole grid: what
// base.cuh is to the W4A16 kernels, for those of cuda/scaled and cuda/quantize. Twins:
// tests/simt/ptx/bits8.h.
#pragma once

#include <type_traits>

#include "ptx/base.cuh"

namespace qcore::ptx {

// What an instruction does from sm_89 on (pack2_fp8): the bits of an fp32 number to those of an
// 8-bit float, in integers. Below the least normal number the step is constant, so there the shift
// grows.
template <class T>
QCORE_DEVICE constexpr uint32_t fp8_bits(uint32_t bits) {
  constexpr bool kE4m3 = std::is_same_v<T, E4m3>;
  constexpr uint32_t kMantissa = kE4m3 ? 3 : 2, kBias = kE4m3 ? 7 : 15;
  constexpr uint32_t kLargest = kE4m3 ? 0x7e : 0x7b, kNan = 0x7f;
  const uint32_t sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | kNan;
  const uint32_t exponent = magnitude >> 23;
  constexpr uint32_t kLeast = 127 - kBias + 1;  // exponent field of the least normal number
  const uint32_t below = exponent < kLeast ? kLeast - exponent : 0;
  if (below > kMantissa + 1) return sign;  // less than half of the least number
  const uint32_t shift = 23 - kMantissa + below;
  const uint32_t whole = (magnitude & 0x7fffff) | 0x800000;
  const uint32_t half = (1u << (shift - 1)) - 1 + (whole >> shift & 1);
  // A significand that rounds up to the next power of two carries into the exponent.
  uint32_t code = (whole + half) >> shift;
  if (below == 0) code += (exponent - kLeast) << kMantissa;
  return sign | (code < kLargest ? code : kLargest);
}

// Whether an FP8 product is one instruction. Where it is not (sm_90 and sm_100 have FP8 units for
// wgmma and tcgen05 only), the compiler makes it of fp16 products, and needs registers for that.
#if defined(__CUDA_ARCH__) && \
    (__CUDA_ARCH__ < 890 || (__CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200))
inline constexpr bool kHasFp8Product = false;
#else
inline constexpr bool kHasFp8Product = true;
#endif

}  // namespace qcore::ptx

#if defined(QCORE_SIMT)

#include "simt/ptx/bits8.h"

#else

#include <cooperative_groups.h>

namespace qcore::ptx {

// All threads of all blocks, which must have been started together (launch.cuh: meets_grid). Orders
// global memory among them.
QCORE_DEVICE void sync_grid() {
  cooperative_groups::this_grid().sync();
}

QCORE_DEVICE int shuffle_xor(int value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

// d += a * b, exact modulo 2^32.
QCORE_DEVICE void mma_16x8x32(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d += a * b. The matrix unit aligns the products and d to the largest of them and keeps about 14
// bits below it, so a long sum must be brought to fp32 every so often. From sm_89 on; an older card
// stops.
template <class A, class B>
QCORE_DEVICE void mma_16x8x32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

#if __CUDA_ARCH__ >= 890
#define QCORE_PTX_MMA_FP8(a_type, b_type)                                    \
  asm("mma.sync.aligned.m16n8k32.row.col.f32." a_type "." b_type             \
      ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                       \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#else
#define QCORE_PTX_MMA_FP8(a_type, b_type) \
  static_cast<void>(d), static_cast<void>(a), static_cast<void>(b), __trap()
#endif
template <>
QCORE_DEVICE void mma_16x8x32<E4m3, E4m3>(float (&d)[4], const uint32_t (&a)[4],
                                          const uint32_t (&b)[2]) {
  QCORE_PTX_MMA_FP8("e4m3", "e4m3");
}
template <>
QCORE_DEVICE void mma_16x8x32<E4m3, E5m2>(float (&d)[4], const uint32_t (&a)[4],
                                          const uint32_t (&b)[2]) {
  QCORE_PTX_MMA_FP8("e4m3", "e5m2");
}
template <>
QCORE_DEVICE void mma_16x8x32<E5m2, E4m3>(float (&d)[4], const uint32_t (&a)[4],
                                          const uint32_t (&b)[2]) {
  QCORE_PTX_MMA_FP8("e5m2", "e4m3");
}
template <>
QCORE_DEVICE void mma_16x8x32<E5m2, E5m2>(float (&d)[4], const uint32_t (&a)[4],
                                          const uint32_t (&b)[2]) {
  QCORE_PTX_MMA_FP8("e5m2", "e5m2");
}
#undef QCORE_PTX_MMA_FP8

// sum + the four bytes of a word, as int8.
QCORE_DEVICE int32_t add_bytes(uint32_t bytes, int32_t sum) {
  return __dp4a(static_cast<int>(bytes), 0x01010101, sum);
}

// Rounded once, whatever the compiler is told.
QCORE_DEVICE float fma(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}
QCORE_DEVICE float divide(float a, float b) {
  return __fdiv_rn(a, b);
}
QCORE_DEVICE float square_root(float a) {
  return __fsqrt_rn(a);
}
QCORE_DEVICE float to_float(int64_t value) {
  return __ll2float_rn(value);
}
// Of a NaN and a number, the number.
QCORE_DEVICE float minimum(float a, float b) {
  return fminf(a, b);
}
QCORE_DEVICE float maximum(float a, float b) {
  return fmaxf(a, b);
}

// {low, high} as two 8-bit floats, to nearest even; beyond the largest finite one it, with the
// sign; NaN is 0x7f or another NaN.
template <class T>
QCORE_DEVICE uint16_t pack2_fp8(float low, float high);
#if __CUDA_ARCH__ >= 890
template <>
QCORE_DEVICE uint16_t pack2_fp8<E4m3>(float low, float high) {
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  return pair;
}
template <>
QCORE_DEVICE uint16_t pack2_fp8<E5m2>(float low, float high) {
  uint16_t pair;
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  return pair;
}
#else
template <>
QCORE_DEVICE uint16_t pack2_fp8<E4m3>(float low, float high) {
  return static_cast<uint16_t>(fp8_bits<E4m3>(__float_as_uint(low)) |
                               fp8_bits<E4m3>(__float_as_uint(high)) << 8);
}
template <>
QCORE_DEVICE uint16_t pack2_fp8<E5m2>(float low, float high) {
  return static_cast<uint16_t>(fp8_bits<E5m2>(__float_as_uint(low)) |
                               fp8_bits<E5m2>(__float_as_uint(high)) << 8);
}
#endif

}  // namespace qcore::ptx

#endif
