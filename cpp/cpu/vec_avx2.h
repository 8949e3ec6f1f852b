// The vector vocabulary of w4a16_loops.h in AVX2 + FMA + F16C: 16 lanes are two ymm.
// Included inside a target region and a namespace; <immintrin.h> comes before.
//
// A code becomes a float by shifting it to the top of its dword, back down with its sign, and
// VCVTDQ2PS: AVX2 has no permutation of floats with a table of 16.

inline constexpr int kTileRows = 6;    // 6 rows x 2 ymm = 12 accumulators of 16 registers; two hold
inline constexpr int kTilePanels = 1;  // the weights and one the activation
inline constexpr int kDirectRows = 2;  // up to here, weights are decoded in registers

struct F32x16 {
  __m256 lo, hi;
};
struct U32x16 {
  __m256i lo, hi;
};

QCORE_INLINE F32x16 zero() {
  return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
QCORE_INLINE F32x16 broadcast(const float* p) {
  const __m256 v = _mm256_broadcast_ss(p);
  return {v, v};
}
QCORE_INLINE F32x16 load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
QCORE_INLINE void store(float* p, F32x16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
QCORE_INLINE F32x16 add(F32x16 a, F32x16 b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
QCORE_INLINE F32x16 sub(F32x16 a, F32x16 b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
QCORE_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
QCORE_INLINE F32x16 fnmadd(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}

QCORE_INLINE F32x16 load_f16(const void* p) {
  const __m128i* half = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(half)), _mm256_cvtph_ps(_mm_loadu_si128(half + 1))};
}
QCORE_INLINE F32x16 load_bf16(const void* p) {
  const __m128i* half = static_cast<const __m128i*>(p);
  const __m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128(half));
  const __m256i hi = _mm256_cvtepu16_epi32(_mm_loadu_si128(half + 1));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}
QCORE_INLINE F32x16 load_u8(const uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}
QCORE_INLINE void store_f16(void* p, F32x16 a) {
  __m128i* half = static_cast<__m128i*>(p);
  _mm_storeu_si128(half, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128(half + 1, _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
// 8 floats to bfloat16 in the low half of each dword.
QCORE_INLINE __m256i bf16_of(__m256 a) {
  const __m256i u = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i even = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  return _mm256_srli_epi32(_mm256_blendv_epi8(even, quiet, nan), 16);
}
QCORE_INLINE void store_bf16(void* p, F32x16 a) {
  // VPACKUSDW packs inside 128-bit halves; VPERMQ puts the quarters back in order.
  const __m256i packed = _mm256_packus_epi32(bf16_of(a.lo), bf16_of(a.hi));
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}

QCORE_INLINE U32x16 load_words(const uint32_t* p) {
  const __m256i* words = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(words), _mm256_loadu_si256(words + 1)};
}
template <int n>
QCORE_INLINE U32x16 shift_right(U32x16 a) {
  return {_mm256_srli_epi32(a.lo, n), _mm256_srli_epi32(a.hi, n)};
}
// (a & mask) | b
QCORE_INLINE U32x16 and_or(U32x16 a, int mask, U32x16 b) {
  const __m256i m = _mm256_set1_epi32(mask);
  return {_mm256_or_si256(_mm256_and_si256(a.lo, m), b.lo),
          _mm256_or_si256(_mm256_and_si256(a.hi, m), b.hi)};
}

template <int bits, int shift>
QCORE_INLINE __m256 field_of_8(__m256i a) {
  constexpr int up = 32 - bits - shift;
  const __m256i high = up == 0 ? a : _mm256_slli_epi32(a, up);
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(high, 32 - bits));
}
// The signed number in bits [shift, shift + bits).
template <int bits, int shift>
QCORE_INLINE F32x16 field(U32x16 a) {
  return {field_of_8<bits, shift>(a.lo), field_of_8<bits, shift>(a.hi)};
}

QCORE_INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}
