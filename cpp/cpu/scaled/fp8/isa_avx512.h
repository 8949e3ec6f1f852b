// The vector vocabulary of the fp8 loops in AVX512 (F, BW, DQ, VL). Included inside a target region
// and a namespace; <immintrin.h> comes before.

inline constexpr int kLanes = 16;
// Of 32 registers a tile of sums takes 24, or two of 12 where blocks of K have scales.
inline constexpr int kTileRows = 6, kBlockTileRows = 3;

struct Floats {
  __m512 v;
};

QCORE_INLINE Floats splat(float a) {
  return {_mm512_set1_ps(a)};
}
QCORE_INLINE Floats load(const float* p) {
  return {_mm512_loadu_ps(p)};
}
QCORE_INLINE void store(void* p, Floats a) {
  _mm512_storeu_ps(p, a.v);
}
// acc + a * b, in place: compilers make copies of the sums of a tile, and then run out of
// registers.
QCORE_INLINE Floats fma(Floats a, Floats b, Floats acc) {
  __asm__("vfmadd231ps %2, %1, %0" : "+v"(acc.v) : "v"(a.v), "v"(b.v));
  return acc;
}
QCORE_INLINE Floats multiply(Floats a, Floats b) {
  return {_mm512_mul_ps(a.v, b.v)};
}

// 16 numbers of 8 bits moved to where a float16 has them: those of e5m2 are its upper half; those
// of e4m3 are 2^8 too small, and NaN is not seen.
QCORE_INLINE __m256i as_halves(Float8 type, const uint8_t* p) {
  const __m256i bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i high = _mm256_slli_epi16(bytes, 8);
  if (type == Float8::e5m2) return high;
  return _mm256_and_si256(_mm256_srai_epi16(high, 1), _mm256_set1_epi16(-0x4080));
}
QCORE_INLINE Floats decode(Float8 type, const uint8_t* p) {
  const __m512 value = _mm512_cvtph_ps(as_halves(type, p));
  return {type == Float8::e5m2 ? value : _mm512_mul_ps(value, _mm512_set1_ps(256.0f))};
}

// The sums over the lanes of four vectors, in the order of a tree.
QCORE_INLINE __m128 sums_of(Floats a, Floats b, Floats c, Floats d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a.v, b.v), _mm512_unpackhi_ps(a.v, b.v));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c.v, d.v), _mm512_unpackhi_ps(c.v, d.v));
  const __m512 all =
      _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
