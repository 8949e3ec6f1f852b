// The vocabulary of the encoders in AVX512: a vector holds a number of each of 16 blocks. Included
// inside a target region and a namespace. + - * / are the compiler's own for vectors.

inline constexpr int kLanes = 16;
using F = __m512;

QCORE_INLINE F splat(float a) {
  return _mm512_set1_ps(a);
}
QCORE_INLINE F load(const float* p) {
  return _mm512_loadu_ps(p);
}
QCORE_INLINE void store(float* p, F a) {
  _mm512_storeu_ps(p, a);
}
// b where one is no number.
QCORE_INLINE F min(F a, F b) {
  return _mm512_min_ps(a, b);
}
QCORE_INLINE F max(F a, F b) {
  return _mm512_max_ps(a, b);
}
// a < b ? x : y
QCORE_INLINE F if_less(F a, F b, F x, F y) {
  return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), x);
}
// Integers 0 .. 255, a byte each.
QCORE_INLINE void store_bytes(uint8_t* p, F a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
}
