// The vocabulary of AVX2 + FMA + F16C: 8 lanes (target.h says what a vocabulary is). Included
// inside a target region and a namespace.
//
// A product of bytes is VPMADDUBSW, whose sums of two saturate at 16 bits: exact where two products
// are below 2^15.

#include "cpu/simd/x86.h"

inline constexpr int kLanes = 8;

struct Floats {
  __m256 v;
};
struct Ints {
  __m256i v;
};

// ---- integers ----

QCORE_INLINE Ints load_ints(const void* p) {
  return {_mm256_loadu_si256(static_cast<const __m256i*>(p))};
}
QCORE_INLINE Ints load_aligned(const void* p) {
  return {_mm256_load_si256(static_cast<const __m256i*>(p))};
}
// The first `count` bytes, 0 behind them.
QCORE_INLINE Ints load_first_bytes(const void* p, int64_t count) {
  alignas(32) char padded[32] = {};
  std::memcpy(padded, p, static_cast<size_t>(count));
  return load_aligned(padded);
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
QCORE_INLINE Ints either(Ints a, Ints b) {
  return {_mm256_or_si256(a.v, b.v)};
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
  if constexpr (n == 0) return a;
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
// a < b ? yes : no, signed.
QCORE_INLINE Ints select_less(Ints a, Ints b, Ints yes, Ints no) {
  return {_mm256_blendv_epi8(no.v, yes.v, _mm256_cmpgt_epi32(b.v, a.v))};
}
// Keeps the compiler from putting this sum off: it likes to add products up in a tree, and then
// runs out of registers for the terms.
QCORE_INLINE void settle(Ints& a) {
  __asm__("" : "+x"(a.v));
}

// ---- bytes and 16-bit pairs in the lanes ----

// A byte in each lane.
QCORE_INLINE Ints load_bytes(const void* p) {
  return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)))};
}
// Signed bytes, two in each lane.
QCORE_INLINE Ints load_bytes_as_pairs(const void* p) {
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
}
// The low words of the lanes.
QCORE_INLINE __m128i low_words(__m256i a) {
  const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1,
                                         0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(a, order), 0x08);
  return _mm256_castsi256_si128(packed);
}
// The low byte of each lane.
QCORE_INLINE void store_bytes(void* p, Ints a) {
  const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, -1, -1, -1, -1, -1, -1, -1, -1);
  _mm_storel_epi64(static_cast<__m128i*>(p), _mm_shuffle_epi8(low_words(a.v), order));
}
// table[byte] for bytes below 16.
QCORE_INLINE Ints lookup(const uint8_t* table, Ints bytes) {
  const __m128i t = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return {_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(t), bytes.v)};
}
QCORE_INLINE Ints magnitude_of_bytes(Ints a) {
  return {_mm256_abs_epi8(a.v)};
}
// Negated where the byte of `sign` is negative, 0 where it is 0.
QCORE_INLINE Ints with_sign_of_bytes(Ints a, Ints sign) {
  return {_mm256_sign_epi8(a.v, sign.v)};
}
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

// ---- sums of products in each lane ----

#ifndef QCORE_VNNI256  // else avxvnni.h has what is faster
inline constexpr bool kByteDot = false;
// acc + the products of both signed halves.
QCORE_INLINE Ints dot_pairs(Ints acc, Ints a, Ints b) {
  return {_mm256_add_epi32(acc.v, _mm256_madd_epi16(a.v, b.v))};
}
// acc + the products of four unsigned and four signed bytes, two of which are below 2^15.
QCORE_INLINE Ints dot_small_bytes(Ints acc, Ints a, Ints b) {
  const __m256i twos = _mm256_maddubs_epi16(a.v, b.v);
  return {_mm256_add_epi32(acc.v, _mm256_madd_epi16(twos, _mm256_set1_epi16(1)))};
}
#endif

// ---- floats ----

QCORE_INLINE Floats load_floats(const void* p) {
  return {_mm256_loadu_ps(static_cast<const float*>(p))};
}
QCORE_INLINE void store(void* p, Floats a) {
  _mm256_storeu_ps(static_cast<float*>(p), a.v);
}
QCORE_INLINE Floats splat(float a) {
  return {_mm256_set1_ps(a)};
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
QCORE_INLINE Floats divide(Floats a, Floats b) {
  return {_mm256_div_ps(a.v, b.v)};
}
QCORE_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
// w * *x + acc
QCORE_INLINE Floats fma_broadcast(const float* x, Floats w, Floats acc) {
  return {_mm256_fmadd_ps(_mm256_broadcast_ss(x), w.v, acc.v)};
}
// a * b + acc, in place: compilers make copies of the sums of a tile, and then run out of
// registers.
QCORE_INLINE Floats fma_in_place(Floats a, Floats b, Floats acc) {
  __asm__("vfmadd231ps %2, %1, %0" : "+x"(acc.v) : "x"(a.v), "x"(b.v));
  return acc;
}
QCORE_INLINE Floats negate(Floats a) {
  return {_mm256_xor_ps(a.v, _mm256_set1_ps(-0.0f))};
}
QCORE_INLINE Floats magnitude(Floats a) {
  return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)};
}
// b if one of them is NaN.
QCORE_INLINE Floats smaller(Floats a, Floats b) {
  return {_mm256_min_ps(a.v, b.v)};
}
QCORE_INLINE Floats larger(Floats a, Floats b) {
  return {_mm256_max_ps(a.v, b.v)};
}
// a < b ? yes : no
QCORE_INLINE Floats select_less(Floats a, Floats b, Floats yes, Floats no) {
  return {_mm256_blendv_ps(no.v, yes.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ))};
}
QCORE_INLINE Floats round_to_even(Floats a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
QCORE_INLINE Ints round_to_ints(Floats a) {
  return {_mm256_cvtps_epi32(a.v)};
}
QCORE_INLINE Floats to_floats(Ints a) {
  return {_mm256_cvtepi32_ps(a.v)};
}
QCORE_INLINE Floats as_floats(Ints a) {
  return {_mm256_castsi256_ps(a.v)};
}
QCORE_INLINE Ints bits_of(Floats a) {
  return {_mm256_castps_si256(a.v)};
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

// ---- float16, bfloat16 and 8-bit floats in memory; stores round to nearest even ----

QCORE_INLINE Floats load_f16(const void* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
}
QCORE_INLINE Floats load_bf16(const void* p) {
  const __m128i half = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
}
QCORE_INLINE void store_f16(void* p, Floats a) {
  _mm_storeu_si128(static_cast<__m128i*>(p),
                   _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
QCORE_INLINE void store_bf16(void* p, Floats a) {
  const __m256i u = _mm256_castps_si256(a.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i even = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q));
  const __m256i rounded = _mm256_srli_epi32(_mm256_blendv_epi8(even, quiet, nan), 16);
  // VPACKUSDW packs inside 128-bit halves; VPERMQ puts the quarters side by side.
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}
// The float16 in the low and in the high half of each lane.
QCORE_INLINE Floats low_f16(Ints a) {
  return {_mm256_cvtph_ps(low_words(a.v))};
}
QCORE_INLINE Floats high_f16(Ints a) {
  return low_f16(shift_right<16>(a));
}
// 8-bit floats moved to where a float16 has them: those of e5m2 are its upper half; those of e4m3
// are 2^8 too small, and NaN is not seen.
QCORE_INLINE Floats load_e5m2(const void* p) {
  const __m128i bytes = _mm_cvtepu8_epi16(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
  return {_mm256_cvtph_ps(_mm_slli_epi16(bytes, 8))};
}
QCORE_INLINE Floats load_e4m3_but_nan(const void* p) {
  const __m128i bytes = _mm_cvtepu8_epi16(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
  const __m128i high = _mm_srai_epi16(_mm_slli_epi16(bytes, 8), 1);
  const __m128i half = _mm_and_si128(high, _mm_set1_epi16(-0x4080));
  return {_mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0f))};
}

// ---- over the lanes ----

QCORE_INLINE bool any_nan(Floats a) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)) != 0;
}
QCORE_INLINE float least_of(Floats a) {
  alignas(32) float lanes[kLanes];
  _mm256_store_ps(lanes, a.v);
  float least = lanes[0];
  for (int i = 1; i < kLanes; ++i) least = lanes[i] < least ? lanes[i] : least;
  return least;
}
QCORE_INLINE float most_of(Floats a) {
  alignas(32) float lanes[kLanes];
  _mm256_store_ps(lanes, a.v);
  float most = lanes[0];
  for (int i = 1; i < kLanes; ++i) most = lanes[i] > most ? lanes[i] : most;
  return most;
}
// The sums over the lanes of four vectors; of floats in the order of a tree.
QCORE_INLINE FourInts sums_of(Ints a, Ints b, Ints c, Ints d) {
  const __m256i ab =
      _mm256_add_epi32(_mm256_unpacklo_epi32(a.v, b.v), _mm256_unpackhi_epi32(a.v, b.v));
  const __m256i cd =
      _mm256_add_epi32(_mm256_unpacklo_epi32(c.v, d.v), _mm256_unpackhi_epi32(c.v, d.v));
  const __m256i all =
      _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
  return {_mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1))};
}
QCORE_INLINE FourFloats sums_of(Floats a, Floats b, Floats c, Floats d) {
  const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v));
  const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c.v, d.v), _mm256_unpackhi_ps(c.v, d.v));
  const __m256 all =
      _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  return {_mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1))};
}
// Rows of a square become its columns.
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

#include "cpu/simd/lanes16.h"

QCORE_INLINE bool any_nan(Floats16 a) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a.lo.v, a.hi.v, _CMP_UNORD_Q)) != 0;
}
// The low byte of each of 16 lanes: cheaper together than half by half.
QCORE_INLINE void store_bytes(void* p, Ints16 a) {
  const __m256i low = _mm256_set1_epi32(0xff);
  const __m256i words =
      _mm256_packus_epi32(_mm256_and_si256(a.lo.v, low), _mm256_and_si256(a.hi.v, low));
  const __m256i bytes = _mm256_packus_epi16(words, words);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
  _mm_storeu_si128(static_cast<__m128i*>(p),
                   _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bytes, order)));
}
