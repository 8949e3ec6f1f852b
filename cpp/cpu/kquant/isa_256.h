// The vector vocabulary of the kquant loops in AVX2: 8 lanes, one row of the weight in each; with
// QCORE_VNNI256 the 256-bit VPDPBUSD and VPDPWSSD. Included inside a target region and a namespace;
// <immintrin.h> comes before.
//
// Without VNNI a product of bytes is VPMADDUBSW, whose sums of two saturate at 16 bits: exact for
// unsigned codes up to 127 (2 * 127 * 127 < 2^15). Values of 8 bits and a sign are multiplied as
// their magnitude by x with their sign: 2 * 128 * 127 < 2^15.

#include "cpu/simd/avx2.h"

inline constexpr int kLanes = 8;
inline constexpr bool kSignedDot = !QCORE_VNNI256;
// A tile of 4 rows: three sums for each, of 16 registers.
inline constexpr int kTileRows = tile_rows(4);

struct Ints {
  __m256i v;
};
struct Floats {
  __m256 v;
};

QCORE_INLINE Ints load(const void* p) {
  return {_mm256_loadu_si256(static_cast<const __m256i*>(p))};
}
QCORE_INLINE void store(void* p, Ints a) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), a.v);
}
QCORE_INLINE Ints splat(int32_t a) {
  return {_mm256_set1_epi32(a)};
}
QCORE_INLINE Ints add(Ints a, Ints b) {
  return {_mm256_add_epi32(a.v, b.v)};
}
QCORE_INLINE Ints sub(Ints a, Ints b) {
  return {_mm256_sub_epi32(a.v, b.v)};
}
QCORE_INLINE Ints multiply(Ints a, Ints b) {
  return {_mm256_mullo_epi32(a.v, b.v)};
}
QCORE_INLINE Ints both(Ints a, Ints b) {
  return {_mm256_and_si256(a.v, b.v)};
}
QCORE_INLINE Ints exclusive_or(Ints a, Ints b) {
  return {_mm256_xor_si256(a.v, b.v)};
}
// (a & mask) | b
QCORE_INLINE Ints and_or(Ints a, Ints mask, Ints b) {
  return {_mm256_or_si256(_mm256_and_si256(a.v, mask.v), b.v)};
}
template <int n>
QCORE_INLINE Ints shift_right(Ints a) {
  if constexpr (n == 0) return a;
  return {_mm256_srli_epi32(a.v, n)};
}
template <int n>
QCORE_INLINE Ints shift_right_signed(Ints a) {
  return {_mm256_srai_epi32(a.v, n)};
}
template <int n>
QCORE_INLINE Ints shift_left(Ints a) {
  return {_mm256_slli_epi32(a.v, n)};
}
QCORE_INLINE Ints shift_left_each(Ints a, Ints count) {  // 0 from 32 on
  return {_mm256_sllv_epi32(a.v, count.v)};
}
QCORE_INLINE Ints shift_right_each(Ints a, Ints count) {
  return {_mm256_srlv_epi32(a.v, count.v)};
}
QCORE_INLINE Ints rotate_right(Ints a, int n) {
  const __m128i right = _mm_cvtsi32_si128(n), left = _mm_cvtsi32_si128(32 - n);
  return {_mm256_or_si256(_mm256_srl_epi32(a.v, right), _mm256_sll_epi32(a.v, left))};
}
// a < limit ? yes : no
QCORE_INLINE Ints select_below(Ints a, int limit, Ints yes, Ints no) {
  return {_mm256_blendv_epi8(no.v, yes.v, _mm256_cmpgt_epi32(_mm256_set1_epi32(limit), a.v))};
}
// table[byte] for bytes below 16.
QCORE_INLINE Ints lookup(const uint8_t* table, Ints bytes) {
  const __m128i t = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return {_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(t), bytes.v)};
}
// Bits [4u, 4u + 4) of each lane, one in each byte, at bit 4.
QCORE_INLINE Ints spread_four(Ints a, int u) {
  const __m256i nibble =
      _mm256_and_si256(_mm256_srl_epi32(a.v, _mm_cvtsi32_si128(4 * u)), _mm256_set1_epi32(15));
  // One product puts copies 7 bits apart: bit i of the nibble stands at bit 8i + 4 of copy i.
  const __m256i copies = _mm256_mullo_epi32(nibble, _mm256_set1_epi32(0x02040810));
  return {_mm256_and_si256(copies, _mm256_set1_epi32(0x10101010))};
}
// 16-bit lanes.
QCORE_INLINE Ints multiply_pairs(Ints a, Ints b) {
  return {_mm256_mullo_epi16(a.v, b.v)};
}
QCORE_INLINE Ints sub_pairs(Ints a, Ints b) {
  return {_mm256_sub_epi16(a.v, b.v)};
}
// Bits [n, n + 16) of `a` and of `b` as the low and the high half of each lane; those below are 0.
template <int n>
QCORE_INLINE Ints make_pairs(Ints a, Ints b) {
  return {_mm256_blend_epi16(shift_right<n>(a).v, shift_left<16 - n>(b).v, 0xaa)};
}

#if QCORE_VNNI256
// acc + the products of both signed halves.
QCORE_INLINE Ints multiply_add_pairs(Ints acc, Ints a, Ints b) {
  return {QCORE_VNNI256_WORDS(acc.v, a.v, b.v)};
}
// acc + the product of four unsigned codes and four signed bytes, in each lane.
template <bool codes_are_signed>
QCORE_INLINE Ints dot(Ints acc, Ints codes, const int32_t* x) {
  static_assert(!codes_are_signed);
  return {QCORE_VNNI256_BYTES(acc.v, codes.v, _mm256_set1_epi32(*x))};
}
#else
QCORE_INLINE Ints multiply_add_pairs(Ints acc, Ints a, Ints b) {
  return {_mm256_add_epi32(acc.v, _mm256_madd_epi16(a.v, b.v))};
}
template <bool codes_are_signed>
QCORE_INLINE Ints dot(Ints acc, Ints codes, const int32_t* x) {
  __m256i signed_x = _mm256_set1_epi32(*x), unsigned_codes = codes.v;
  if constexpr (codes_are_signed) {
    signed_x = _mm256_sign_epi8(signed_x, codes.v);
    unsigned_codes = _mm256_abs_epi8(codes.v);
  }
  const __m256i twos = _mm256_maddubs_epi16(unsigned_codes, signed_x);
  return {_mm256_add_epi32(acc.v, _mm256_madd_epi16(twos, _mm256_set1_epi16(1)))};
}
#endif

// Keeps the compiler from putting this sum off: it likes to add products up in a tree, and then
// runs out of registers for the terms.
QCORE_INLINE void settle(Ints& a) {
  __asm__("" : "+x"(a.v));
}

QCORE_INLINE Floats load_floats(const void* p) {
  return {_mm256_loadu_ps(static_cast<const float*>(p))};
}
QCORE_INLINE void store(void* p, Floats a) {
  _mm256_storeu_ps(static_cast<float*>(p), a.v);
}
QCORE_INLINE Floats splat(float a) {
  return {_mm256_set1_ps(a)};
}
QCORE_INLINE Floats to_floats(Ints a) {
  return {_mm256_cvtepi32_ps(a.v)};
}
QCORE_INLINE Floats as_floats(Ints a) {
  return {_mm256_castsi256_ps(a.v)};
}
QCORE_INLINE Ints round_to_ints(Floats a) {
  return {_mm256_cvtps_epi32(a.v)};
}
QCORE_INLINE Floats add(Floats a, Floats b) {
  return {_mm256_add_ps(a.v, b.v)};
}
QCORE_INLINE Floats sub(Floats a, Floats b) {
  return {_mm256_sub_ps(a.v, b.v)};
}
QCORE_INLINE Floats multiply(Floats a, Floats b) {
  return {_mm256_mul_ps(a.v, b.v)};
}
QCORE_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
QCORE_INLINE Floats negate(Floats a) {
  return {_mm256_xor_ps(a.v, _mm256_set1_ps(-0.0f))};
}
QCORE_INLINE Floats larger(Floats a, Floats b) {
  return {_mm256_max_ps(a.v, b.v)};
}
QCORE_INLINE Floats magnitude(Floats a) {
  return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)};
}
QCORE_INLINE float horizontal_max(Floats a) {
  alignas(32) float lanes[kLanes];
  _mm256_store_ps(lanes, a.v);
  return *std::max_element(lanes, lanes + kLanes);
}
QCORE_INLINE float horizontal_sum(Floats a) {
  alignas(32) float lanes[kLanes];
  _mm256_store_ps(lanes, a.v);
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

// Halves or bfloat16 of `kLanes` elements, side by side.
QCORE_INLINE Floats load_halves(const void* p) {
  return {floats_of_halves(p)};
}
QCORE_INLINE Floats load_brains(const void* p) {
  return {floats_of_brains(p)};
}
QCORE_INLINE void store_halves(void* p, Floats a) {
  store_as_halves(p, a.v);
}
// The low words of the lanes.
QCORE_INLINE __m128i low_words(__m256i a) {
  const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1,
                                         0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(a, order), 0x08);
  return _mm256_castsi256_si128(packed);
}
QCORE_INLINE void store_brains(void* p, Floats a) {
  store_as_brains(p, a.v);
}
// The low and the high half of each lane.
QCORE_INLINE Floats low_halves(Ints a) {
  return {_mm256_cvtph_ps(low_words(a.v))};
}
QCORE_INLINE Floats high_halves(Ints a) {
  return low_halves(shift_right<16>(a));
}
QCORE_INLINE Ints load_bytes(const void* p) {
  return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)))};
}
// The low byte of each lane.
QCORE_INLINE void store_as_bytes(void* p, Ints a) {
  const __m128i words = low_words(a.v);
  const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, -1, -1, -1, -1, -1, -1, -1, -1);
  _mm_storel_epi64(static_cast<__m128i*>(p), _mm_shuffle_epi8(words, order));
}

// Into the second cache.
QCORE_INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
}
