// The vector vocabulary of the int8 loops in AVX512 (F, BW, DQ, VL, VNNI). Included inside a target
// region and a namespace; <immintrin.h> comes before.
//
// VPDPBUSD multiplies unsigned by signed bytes, so x is read with an offset of 128.

#include "cpu/simd/avx512.h"

inline constexpr int kLanes = 16;
inline constexpr int kStep = 64;  // columns of K in one vector
inline constexpr int kOffset = 128;
inline constexpr bool kHasPanels = true;
// Of 32 registers a tile of sums takes 24: 6 x 4, 3 x 8, or 4 panels x 6.
inline constexpr int kTileRows = 6, kWideTileRows = 3;
inline constexpr int kMostPanels = 4;
// As many rows of x are multiplied as rows; more are faster in panels.
inline constexpr int64_t kFewRows = 24;

using XElement = uint8_t;  // of the copy of x: x + 128

struct Ints {
  __m512i v;
};
struct Floats {
  __m512 v;
};

QCORE_INLINE Ints zeros() {
  return {_mm512_setzero_si512()};
}
QCORE_INLINE Ints load(const void* p) {
  return {_mm512_loadu_si512(p)};
}
QCORE_INLINE void store(void* p, Ints a) {
  _mm512_storeu_si512(p, a.v);
}
QCORE_INLINE Ints add(Ints a, Ints b) {
  return {_mm512_add_epi32(a.v, b.v)};
}
QCORE_INLINE Ints sub(Ints a, Ints b) {
  return {_mm512_sub_epi32(a.v, b.v)};
}
template <unsigned n>
QCORE_INLINE Ints shift_left(Ints a) {
  return {_mm512_slli_epi32(a.v, n)};
}
QCORE_INLINE Ints splat(int32_t a) {
  return {_mm512_set1_epi32(a)};
}
// Bytes with an offset of 128.
QCORE_INLINE Ints flip_signs(Ints a) {
  return {_mm512_xor_si512(a.v, _mm512_set1_epi8(-128))};
}
QCORE_INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}
QCORE_INLINE void prefetch_far(const void* p) {  // into the L2 cache
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
}

QCORE_INLINE Ints load_x(const XElement* p) {
  return {_mm512_load_si512(p)};
}
QCORE_INLINE Ints load_w(const int8_t* p) {
  return {_mm512_loadu_si512(p)};
}
// The first `count` of a vector, 0 behind them.
QCORE_INLINE Ints load_w(const int8_t* p, int64_t count) {
  return {_mm512_maskz_loadu_epi8(~uint64_t{0} >> (kStep - count), p)};
}
// acc + products of the elements of x and of the weight, in each lane.
QCORE_INLINE Ints dot(Ints acc, Ints x, Ints w) {
  // In place: compilers make copies of the sums of a tile, and then run out of registers.
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc.v) : "v"(x.v), "v"(w.v));
  return acc;
}
QCORE_INLINE Ints ones_of_x() {
  return {_mm512_set1_epi8(1)};
}

// The sums over the lanes of four vectors.
QCORE_INLINE __m128i sums_of(Ints a, Ints b, Ints c, Ints d) {
  const __m512i ab =
      _mm512_add_epi32(_mm512_unpacklo_epi32(a.v, b.v), _mm512_unpackhi_epi32(a.v, b.v));
  const __m512i cd =
      _mm512_add_epi32(_mm512_unpacklo_epi32(c.v, d.v), _mm512_unpackhi_epi32(c.v, d.v));
  const __m512i all =
      _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half =
      _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

// Rows of a square of 32-bit elements become its columns.
QCORE_INLINE void transpose(Ints (&a)[kLanes]) {
  __m512i b[kLanes], c[kLanes];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    b[2 * i] = _mm512_unpacklo_epi32(a[2 * i].v, a[2 * i + 1].v);
    b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i].v, a[2 * i + 1].v);
  }
  // c[4 i + j]: in each 128 bits column j of rows 4 i .. 4 i + 3.
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    c[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    c[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    c[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    c[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i low = _mm512_shuffle_i32x4(c[j], c[4 + j], 0x88);
    const __m512i low2 = _mm512_shuffle_i32x4(c[8 + j], c[12 + j], 0x88);
    const __m512i high = _mm512_shuffle_i32x4(c[j], c[4 + j], 0xdd);
    const __m512i high2 = _mm512_shuffle_i32x4(c[8 + j], c[12 + j], 0xdd);
    a[j] = {_mm512_shuffle_i32x4(low, low2, 0x88)};
    a[8 + j] = {_mm512_shuffle_i32x4(low, low2, 0xdd)};
    a[4 + j] = {_mm512_shuffle_i32x4(high, high2, 0x88)};
    a[12 + j] = {_mm512_shuffle_i32x4(high, high2, 0xdd)};
  }
}

QCORE_INLINE Floats to_floats(Ints a) {
  return {_mm512_cvtepi32_ps(a.v)};
}
// a - zero * b, exact, then rounded once.
QCORE_INLINE Floats less_products(Ints a, int32_t zero, Ints b) {
  const __m512d z = _mm512_set1_pd(zero);
  const __m256i a_high = _mm512_extracti64x4_epi64(a.v, 1);
  const __m256i b_high = _mm512_extracti64x4_epi64(b.v, 1);
  const __m512d low = _mm512_fnmadd_pd(z, _mm512_cvtepi32_pd(_mm512_castsi512_si256(b.v)),
                                       _mm512_cvtepi32_pd(_mm512_castsi512_si256(a.v)));
  const __m512d high = _mm512_fnmadd_pd(z, _mm512_cvtepi32_pd(b_high), _mm512_cvtepi32_pd(a_high));
  return {
      _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)), _mm512_cvtpd_ps(high), 1)};
}
QCORE_INLINE Floats splat(float a) {
  return {_mm512_set1_ps(a)};
}
QCORE_INLINE Floats load_floats(const void* p) {
  return {_mm512_loadu_ps(p)};
}
QCORE_INLINE Floats multiply(Floats a, Floats b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
QCORE_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
QCORE_INLINE void store(void* p, Floats a) {
  _mm512_storeu_ps(p, a.v);
}
QCORE_INLINE void store_halves(void* p, Floats a) {
  store_as_halves(p, a.v);
}
QCORE_INLINE void store_brains(void* p, Floats a) {
  store_as_brains(p, a.v);
}
