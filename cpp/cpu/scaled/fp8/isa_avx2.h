// The vector vocabulary of the fp8 loops in AVX2 with F16C. Included inside a target region and a
// namespace; <immintrin.h> comes before.

inline constexpr int kLanes = 8;
// Of 16 registers a tile of sums takes 8, or two of 4 where blocks of K have scales.
inline constexpr int kTileRows = 2, kBlockTileRows = 1;

struct Floats {
  __m256 v;
};

QCORE_INLINE Floats splat(float a) {
  return {_mm256_set1_ps(a)};
}
QCORE_INLINE Floats load(const float* p) {
  return {_mm256_loadu_ps(p)};
}
QCORE_INLINE void store(void* p, Floats a) {
  _mm256_storeu_ps(static_cast<float*>(p), a.v);
}
// acc + a * b, in place: compilers make copies of the sums of a tile, and then run out of
// registers.
QCORE_INLINE Floats fma(Floats a, Floats b, Floats acc) {
  __asm__("vfmadd231ps %2, %1, %0" : "+x"(acc.v) : "x"(a.v), "x"(b.v));
  return acc;
}
QCORE_INLINE Floats multiply(Floats a, Floats b) {
  return {_mm256_mul_ps(a.v, b.v)};
}

// 8 numbers of 8 bits moved to where a float16 has them: those of e5m2 are its upper half; those of
// e4m3 are 2^8 too small, and NaN is not seen.
QCORE_INLINE __m128i as_halves(Float8 type, const uint8_t* p) {
  const __m128i bytes = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  const __m128i high = _mm_slli_epi16(bytes, 8);
  if (type == Float8::e5m2) return high;
  return _mm_and_si128(_mm_srai_epi16(high, 1), _mm_set1_epi16(-0x4080));
}
QCORE_INLINE Floats decode(Float8 type, const uint8_t* p) {
  const __m256 value = _mm256_cvtph_ps(as_halves(type, p));
  return {type == Float8::e5m2 ? value : _mm256_mul_ps(value, _mm256_set1_ps(256.0f))};
}

// The sums over the lanes of four vectors, in the order of a tree.
QCORE_INLINE __m128 sums_of(Floats a, Floats b, Floats c, Floats d) {
  const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v));
  const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c.v, d.v), _mm256_unpackhi_ps(c.v, d.v));
  const __m256 all =
      _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  return _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
}
