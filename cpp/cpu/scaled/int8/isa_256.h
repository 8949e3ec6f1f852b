// The vector vocabulary of the int8 loops in AVX2; with QCORE_VNNI256 the 256-bit VPDPBUSD.
// Included inside a target region and a namespace; <immintrin.h> comes before.
//
// VPDPBUSD multiplies unsigned by signed bytes, so x is read with an offset of 128. Without it
// bytes are widened to 16 bits and multiplied by VPMADDWD, which is exact; VPMADDUBSW would
// saturate.

#include "cpu/simd/avx2.h"

inline constexpr int kLanes = 8;
inline constexpr bool kHasPanels = QCORE_VNNI256;
// Of 16 registers a tile of sums takes 12 (3 x 4, or 2 panels x 6), without VNNI 8 (2 x 4).
inline constexpr int kTileRows = QCORE_VNNI256 ? 3 : 2, kWideTileRows = 0;
inline constexpr int kMostPanels = 2;
// As many rows of x are multiplied as rows; more are faster in panels, if there are any.
inline constexpr int64_t kFewRows = QCORE_VNNI256 ? 6 : 48;

struct Ints {
  __m256i v;
};
struct Floats {
  __m256 v;
};

QCORE_INLINE Ints zeros() {
  return {_mm256_setzero_si256()};
}
QCORE_INLINE Ints load(const void* p) {
  return {_mm256_loadu_si256(static_cast<const __m256i*>(p))};
}
QCORE_INLINE void store(void* p, Ints a) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), a.v);
}
QCORE_INLINE Ints add(Ints a, Ints b) {
  return {_mm256_add_epi32(a.v, b.v)};
}
QCORE_INLINE Ints sub(Ints a, Ints b) {
  return {_mm256_sub_epi32(a.v, b.v)};
}
template <unsigned n>
QCORE_INLINE Ints shift_left(Ints a) {
  return {_mm256_slli_epi32(a.v, n)};
}
QCORE_INLINE Ints splat(int32_t a) {
  return {_mm256_set1_epi32(a)};
}
// Bytes with an offset of 128.
QCORE_INLINE Ints flip_signs(Ints a) {
  return {_mm256_xor_si256(a.v, _mm256_set1_epi8(-128))};
}
QCORE_INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}
QCORE_INLINE void prefetch_far(const void* p) {  // into the L2 cache
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
}

#if QCORE_VNNI256

inline constexpr int kStep = 32;  // columns of K in one vector
inline constexpr int kOffset = 128;
using XElement = uint8_t;  // of the copy of x: x + 128

QCORE_INLINE Ints load_w(const int8_t* p) {
  return load(p);
}
QCORE_INLINE Ints dot(Ints acc, Ints x, Ints w) {
  return {QCORE_VNNI256_BYTES(acc.v, x.v, w.v)};
}
QCORE_INLINE Ints ones_of_x() {
  return {_mm256_set1_epi8(1)};
}

#else

inline constexpr int kStep = 16;
inline constexpr int kOffset = 0;
using XElement = int16_t;

QCORE_INLINE Ints load_w(const int8_t* p) {
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
QCORE_INLINE Ints dot(Ints acc, Ints x, Ints w) {
  return add(acc, {_mm256_madd_epi16(x.v, w.v)});
}
QCORE_INLINE Ints ones_of_x() {
  return {_mm256_set1_epi16(1)};
}

#endif

QCORE_INLINE Ints load_x(const XElement* p) {
  return {_mm256_load_si256(reinterpret_cast<const __m256i*>(p))};
}
// The first `count` of a vector, 0 behind them.
QCORE_INLINE Ints load_w(const int8_t* p, int64_t count) {
  alignas(32) int8_t padded[kStep] = {};
  std::memcpy(padded, p, static_cast<size_t>(count));
  return load_w(padded);
}

// The sums over the lanes of four vectors.
QCORE_INLINE __m128i sums_of(Ints a, Ints b, Ints c, Ints d) {
  const __m256i ab =
      _mm256_add_epi32(_mm256_unpacklo_epi32(a.v, b.v), _mm256_unpackhi_epi32(a.v, b.v));
  const __m256i cd =
      _mm256_add_epi32(_mm256_unpacklo_epi32(c.v, d.v), _mm256_unpackhi_epi32(c.v, d.v));
  const __m256i all =
      _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
  return _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

// Rows of a square of 32-bit elements become its columns.
QCORE_INLINE void transpose(Ints (&a)[kLanes]) {
  __m256i b[kLanes], c[kLanes];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    b[2 * i] = _mm256_unpacklo_epi32(a[2 * i].v, a[2 * i + 1].v);
    b[2 * i + 1] = _mm256_unpackhi_epi32(a[2 * i].v, a[2 * i + 1].v);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    c[i] = _mm256_unpacklo_epi64(b[i], b[i + 2]);
    c[i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 2]);
    c[i + 2] = _mm256_unpacklo_epi64(b[i + 1], b[i + 3]);
    c[i + 3] = _mm256_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    a[j] = {_mm256_permute2x128_si256(c[j], c[4 + j], 0x20)};
    a[4 + j] = {_mm256_permute2x128_si256(c[j], c[4 + j], 0x31)};
  }
}

QCORE_INLINE Floats to_floats(Ints a) {
  return {_mm256_cvtepi32_ps(a.v)};
}
// a - zero * b, exact, then rounded once.
QCORE_INLINE Floats less_products(Ints a, int32_t zero, Ints b) {
  const __m256d z = _mm256_set1_pd(zero);
  const __m256d low = _mm256_fnmadd_pd(z, _mm256_cvtepi32_pd(_mm256_castsi256_si128(b.v)),
                                       _mm256_cvtepi32_pd(_mm256_castsi256_si128(a.v)));
  const __m256d high = _mm256_fnmadd_pd(z, _mm256_cvtepi32_pd(_mm256_extracti128_si256(b.v, 1)),
                                        _mm256_cvtepi32_pd(_mm256_extracti128_si256(a.v, 1)));
  return {_mm256_set_m128(_mm256_cvtpd_ps(high), _mm256_cvtpd_ps(low))};
}
QCORE_INLINE Floats splat(float a) {
  return {_mm256_set1_ps(a)};
}
QCORE_INLINE Floats load_floats(const void* p) {
  return {_mm256_loadu_ps(static_cast<const float*>(p))};
}
QCORE_INLINE Floats multiply(Floats a, Floats b) {
  return {_mm256_mul_ps(a.v, b.v)};
}
QCORE_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
QCORE_INLINE void store(void* p, Floats a) {
  _mm256_storeu_ps(static_cast<float*>(p), a.v);
}
QCORE_INLINE void store_halves(void* p, Floats a) {
  store_as_halves(p, a.v);
}
QCORE_INLINE void store_brains(void* p, Floats a) {
  store_as_brains(p, a.v);
}
