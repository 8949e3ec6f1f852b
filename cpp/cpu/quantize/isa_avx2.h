// The vector vocabulary of the quantizers in AVX2: 16 floats in two registers. Included inside a
// target region and a namespace; <immintrin.h> comes before.

#include "cpu/simd/avx2.h"

inline constexpr int kLanes = 16;

struct Floats {
  __m256 lo, hi;
};
struct Ints {
  __m256i lo, hi;
};

QCORE_INLINE Floats splat(float a) {
  return {_mm256_set1_ps(a), _mm256_set1_ps(a)};
}
QCORE_INLINE Floats load_floats(const void* p) {
  const float* from = static_cast<const float*>(p);
  return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}
QCORE_INLINE Floats load_halves(const void* p) {
  const __m128i* from = static_cast<const __m128i*>(p);
  return {floats_of_halves(from), floats_of_halves(from + 1)};
}
QCORE_INLINE Floats load_brains(const void* p) {
  const __m128i* from = static_cast<const __m128i*>(p);
  return {floats_of_brains(from), floats_of_brains(from + 1)};
}
QCORE_INLINE void store(float* p, Floats a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
QCORE_INLINE Floats multiply(Floats a, Floats b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
QCORE_INLINE Floats divide(Floats a, Floats b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
QCORE_INLINE Floats add(Floats a, Floats b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
QCORE_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
// b if one of them is NaN.
QCORE_INLINE Floats smaller(Floats a, Floats b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
QCORE_INLINE Floats larger(Floats a, Floats b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
QCORE_INLINE Floats round_to_even(Floats a) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, kMode), _mm256_round_ps(a.hi, kMode)};
}
QCORE_INLINE bool any_nan(Floats a) {
  const __m256 lo = _mm256_cmp_ps(a.lo, a.lo, _CMP_UNORD_Q);
  return _mm256_movemask_ps(_mm256_or_ps(lo, _mm256_cmp_ps(a.hi, a.hi, _CMP_UNORD_Q))) != 0;
}
QCORE_INLINE float least_of(Floats a) {
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, _mm256_min_ps(a.lo, a.hi));
  float least = lanes[0];
  for (int i = 1; i < 8; ++i) least = lanes[i] < least ? lanes[i] : least;
  return least;
}
QCORE_INLINE float most_of(Floats a) {
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, _mm256_max_ps(a.lo, a.hi));
  float most = lanes[0];
  for (int i = 1; i < 8; ++i) most = lanes[i] > most ? lanes[i] : most;
  return most;
}

QCORE_INLINE Ints splat(int32_t a) {
  return {_mm256_set1_epi32(a), _mm256_set1_epi32(a)};
}
QCORE_INLINE Ints bits_of(Floats a) {
  return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)};
}
QCORE_INLINE Floats as_floats(Ints a) {
  return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)};
}
QCORE_INLINE Ints to_ints(Floats a) {
  return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)};
}
QCORE_INLINE Ints add(Ints a, Ints b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
QCORE_INLINE Ints sub(Ints a, Ints b) {
  return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
}
QCORE_INLINE Ints both(Ints a, Ints b) {
  return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
}
QCORE_INLINE Ints either(Ints a, Ints b) {
  return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}
template <int n>
QCORE_INLINE Ints shift_right(Ints a) {
  return {_mm256_srli_epi32(a.lo, n), _mm256_srli_epi32(a.hi, n)};
}
QCORE_INLINE __m256i select_less(__m256i a, __m256i b, __m256i yes, __m256i no) {
  return _mm256_blendv_epi8(no, yes, _mm256_cmpgt_epi32(b, a));
}
// a < b ? yes : no, signed.
QCORE_INLINE Ints select_less(Ints a, Ints b, Ints yes, Ints no) {
  return {select_less(a.lo, b.lo, yes.lo, no.lo), select_less(a.hi, b.hi, yes.hi, no.hi)};
}
// The low byte of each lane.
QCORE_INLINE void store_bytes(void* p, Ints a) {
  const __m256i low = _mm256_set1_epi32(0xff);
  const __m256i words =
      _mm256_packus_epi32(_mm256_and_si256(a.lo, low), _mm256_and_si256(a.hi, low));
  const __m256i bytes = _mm256_packus_epi16(words, words);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
  _mm_storeu_si128(static_cast<__m128i*>(p),
                   _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bytes, order)));
}
