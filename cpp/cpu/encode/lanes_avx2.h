// The vocabulary of the encoders in AVX2: a vector holds a number of each of 8 blocks. Included
// inside a target region and a namespace. + - * / are the compiler's own for vectors.

inline constexpr int kLanes = 8;
using F = __m256;

QCORE_INLINE F splat(float a) {
  return _mm256_set1_ps(a);
}
QCORE_INLINE F load(const float* p) {
  return _mm256_loadu_ps(p);
}
QCORE_INLINE void store(float* p, F a) {
  _mm256_storeu_ps(p, a);
}
// b where one is no number.
QCORE_INLINE F min(F a, F b) {
  return _mm256_min_ps(a, b);
}
QCORE_INLINE F max(F a, F b) {
  return _mm256_max_ps(a, b);
}
// a < b ? x : y
QCORE_INLINE F if_less(F a, F b, F x, F y) {
  return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
// Integers 0 .. 255, a byte each.
QCORE_INLINE void store_bytes(uint8_t* p, F a) {
  const __m256i dwords = _mm256_cvtps_epi32(a);
  const __m128i words =
      _mm_packus_epi32(_mm256_castsi256_si128(dwords), _mm256_extracti128_si256(dwords, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}
