// The vocabulary of AVX512 F + BW + DQ + VL + VNNI: 16 lanes (target.h says what a vocabulary is).
// Included inside a target region and a namespace.

#include "cpu/simd/x86.h"

inline constexpr int kLanes = 16;

struct Floats {
  __m512 v;
};
struct Ints {
  __m512i v;
};

// ---- integers ----

QCORE_INLINE Ints load_ints(const void* p) {
  return {_mm512_loadu_si512(p)};
}
QCORE_INLINE Ints load_aligned(const void* p) {
  return {_mm512_load_si512(p)};
}
// The first `count` bytes, 0 behind them.
QCORE_INLINE Ints load_first_bytes(const void* p, int64_t count) {
  return {_mm512_maskz_loadu_epi8(~uint64_t{0} >> (64 - count), p)};
}
QCORE_INLINE void store(void* p, Ints a) {
  _mm512_storeu_si512(p, a.v);
}
QCORE_INLINE Ints splat(int32_t a) {
  return {_mm512_set1_epi32(a)};
}
QCORE_INLINE Ints add(Ints a, Ints b) {
  return {_mm512_add_epi32(a.v, b.v)};
}
QCORE_INLINE Ints sub(Ints a, Ints b) {
  return {_mm512_sub_epi32(a.v, b.v)};
}
QCORE_INLINE Ints multiply(Ints a, Ints b) {
  return {_mm512_mullo_epi32(a.v, b.v)};
}
QCORE_INLINE Ints both(Ints a, Ints b) {
  return {_mm512_and_si512(a.v, b.v)};
}
QCORE_INLINE Ints either(Ints a, Ints b) {
  return {_mm512_or_si512(a.v, b.v)};
}
QCORE_INLINE Ints exclusive_or(Ints a, Ints b) {
  return {_mm512_xor_si512(a.v, b.v)};
}
// (a & mask) | b
QCORE_INLINE Ints and_or(Ints a, Ints mask, Ints b) {
  return {_mm512_ternarylogic_epi32(a.v, mask.v, b.v, 0xea)};
}
template <unsigned n>
QCORE_INLINE Ints shift_right(Ints a) {
  if constexpr (n == 0) return a;
  return {_mm512_srli_epi32(a.v, n)};
}
template <unsigned n>
QCORE_INLINE Ints shift_right_signed(Ints a) {
  return {_mm512_srai_epi32(a.v, n)};
}
template <unsigned n>
QCORE_INLINE Ints shift_left(Ints a) {
  if constexpr (n == 0) return a;
  return {_mm512_slli_epi32(a.v, n)};
}
QCORE_INLINE Ints shift_left_each(Ints a, Ints count) {  // 0 from 32 on
  return {_mm512_sllv_epi32(a.v, count.v)};
}
QCORE_INLINE Ints shift_right_each(Ints a, Ints count) {
  return {_mm512_srlv_epi32(a.v, count.v)};
}
QCORE_INLINE Ints rotate_right(Ints a, int n) {
  return {_mm512_rorv_epi32(a.v, _mm512_set1_epi32(n))};
}
// a < b ? yes : no, signed.
QCORE_INLINE Ints select_less(Ints a, Ints b, Ints yes, Ints no) {
  return {_mm512_mask_mov_epi32(no.v, _mm512_cmplt_epi32_mask(a.v, b.v), yes.v)};
}
// Keeps the compiler from putting this sum off: it likes to add products up in a tree, and then
// runs out of registers for the terms.
QCORE_INLINE void settle(Ints& a) {
  __asm__("" : "+v"(a.v));
}

// ---- bytes and 16-bit pairs in the lanes ----

// A byte in each lane.
QCORE_INLINE Ints load_bytes(const void* p) {
  return {_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
}
// The low byte of each lane.
QCORE_INLINE void store_bytes(void* p, Ints a) {
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}
// table[byte] for bytes below 16.
QCORE_INLINE Ints lookup(const uint8_t* table, Ints bytes) {
  const __m128i t = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(t), bytes.v)};
}
QCORE_INLINE Ints multiply_pairs(Ints a, Ints b) {
  return {_mm512_mullo_epi16(a.v, b.v)};
}
QCORE_INLINE Ints sub_pairs(Ints a, Ints b) {
  return {_mm512_sub_epi16(a.v, b.v)};
}
// Bits [n, n + 16) of `a` and of `b` as the low and the high half of each lane; those below are 0.
template <unsigned n>
QCORE_INLINE Ints make_pairs(Ints a, Ints b) {
  const Ints low = shift_right<n>(a), high = shift_left<16 - n>(b);
  return {_mm512_mask_blend_epi16(0xaaaaaaaa, low.v, high.v)};
}

// ---- sums of products in each lane ----

inline constexpr bool kByteDot = true;

// acc + the products of both signed halves.
QCORE_INLINE Ints dot_pairs(Ints acc, Ints a, Ints b) {
  return {_mm512_dpwssd_epi32(acc.v, a.v, b.v)};
}
// acc + the products of four unsigned bytes and four signed ones. In place: compilers make copies
// of the sums of a tile, and then run out of registers.
QCORE_INLINE Ints dot_bytes(Ints acc, Ints a, Ints b) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc.v) : "v"(a.v), "v"(b.v));
  return acc;
}
// The broadcast belongs inside the instruction; compilers make a separate one of it.
QCORE_INLINE Ints dot_bytes_broadcast(Ints acc, Ints a, const int32_t* b) {
  __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc.v) : "v"(a.v), "m"(*b));
  return acc;
}

// ---- floats ----

QCORE_INLINE Floats load_floats(const void* p) {
  return {_mm512_loadu_ps(p)};
}
QCORE_INLINE void store(void* p, Floats a) {
  _mm512_storeu_ps(p, a.v);
}
QCORE_INLINE Floats splat(float a) {
  return {_mm512_set1_ps(a)};
}
QCORE_INLINE Floats add(Floats a, Floats b) {
  return {_mm512_add_ps(a.v, b.v)};
}
QCORE_INLINE Floats sub(Floats a, Floats b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
QCORE_INLINE Floats multiply(Floats a, Floats b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
QCORE_INLINE Floats divide(Floats a, Floats b) {
  return {_mm512_div_ps(a.v, b.v)};
}
QCORE_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
// w * *x + acc with the broadcast inside the instruction. Compilers share one broadcast between
// several multiply-adds; that separate instruction costs a slot where decoding needs it.
QCORE_INLINE Floats fma_broadcast(const float* x, Floats w, Floats acc) {
  __asm__("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(acc.v) : "v"(w.v), "m"(*x));
  return acc;
}
// a * b + acc, in place: compilers make copies of the sums of a tile, and then run out of
// registers.
QCORE_INLINE Floats fma_in_place(Floats a, Floats b, Floats acc) {
  __asm__("vfmadd231ps %2, %1, %0" : "+v"(acc.v) : "v"(a.v), "v"(b.v));
  return acc;
}
QCORE_INLINE Floats negate(Floats a) {
  return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))};
}
QCORE_INLINE Floats magnitude(Floats a) {
  return {_mm512_abs_ps(a.v)};
}
// b if one of them is NaN.
QCORE_INLINE Floats smaller(Floats a, Floats b) {
  return {_mm512_min_ps(a.v, b.v)};
}
QCORE_INLINE Floats larger(Floats a, Floats b) {
  return {_mm512_max_ps(a.v, b.v)};
}
// a < b ? yes : no
QCORE_INLINE Floats select_less(Floats a, Floats b, Floats yes, Floats no) {
  return {_mm512_mask_mov_ps(no.v, _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), yes.v)};
}
QCORE_INLINE Floats round_to_even(Floats a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
QCORE_INLINE Ints round_to_ints(Floats a) {
  return {_mm512_cvtps_epi32(a.v)};
}
QCORE_INLINE Floats to_floats(Ints a) {
  return {_mm512_cvtepi32_ps(a.v)};
}
QCORE_INLINE Floats as_floats(Ints a) {
  return {_mm512_castsi512_ps(a.v)};
}
QCORE_INLINE Ints bits_of(Floats a) {
  return {_mm512_castps_si512(a.v)};
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

// ---- float16, bfloat16 and 8-bit floats in memory; stores round to nearest even ----

QCORE_INLINE Floats load_f16(const void* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
}
QCORE_INLINE Floats load_bf16(const void* p) {
  const __m256i half = _mm256_loadu_si256(static_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
QCORE_INLINE void store_f16(void* p, Floats a) {
  _mm256_storeu_si256(static_cast<__m256i*>(p),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
QCORE_INLINE void store_bf16(void* p, Floats a) {
  const __m512i u = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i even = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  const __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
  const __m512i rounded = _mm512_srli_epi32(_mm512_mask_mov_epi32(even, nan, quiet), 16);
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded));
}
// The float16 in the low and in the high half of each lane.
QCORE_INLINE Floats low_f16(Ints a) {
  return {_mm512_cvtph_ps(_mm512_cvtepi32_epi16(a.v))};
}
QCORE_INLINE Floats high_f16(Ints a) {
  return low_f16(shift_right<16>(a));
}
// 8-bit floats moved to where a float16 has them: those of e5m2 are its upper half; those of e4m3
// are 2^8 too small, and NaN is not seen.
QCORE_INLINE Floats load_e5m2(const void* p) {
  const __m256i bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  return {_mm512_cvtph_ps(_mm256_slli_epi16(bytes, 8))};
}
QCORE_INLINE Floats load_e4m3_but_nan(const void* p) {
  const __m256i bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  const __m256i high = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 1);
  const __m256i half = _mm256_and_si256(high, _mm256_set1_epi16(-0x4080));
  return {_mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0f))};
}

// ---- over the lanes ----

QCORE_INLINE bool any_nan(Floats a) {
  return _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q) != 0;
}
QCORE_INLINE float least_of(Floats a) {
  return _mm512_reduce_min_ps(a.v);
}
QCORE_INLINE float most_of(Floats a) {
  return _mm512_reduce_max_ps(a.v);
}
// The sums over the lanes of four vectors; of floats in the order of a tree.
QCORE_INLINE FourInts sums_of(Ints a, Ints b, Ints c, Ints d) {
  const __m512i ab =
      _mm512_add_epi32(_mm512_unpacklo_epi32(a.v, b.v), _mm512_unpackhi_epi32(a.v, b.v));
  const __m512i cd =
      _mm512_add_epi32(_mm512_unpacklo_epi32(c.v, d.v), _mm512_unpackhi_epi32(c.v, d.v));
  const __m512i all =
      _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half =
      _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  return {_mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1))};
}
QCORE_INLINE FourFloats sums_of(Floats a, Floats b, Floats c, Floats d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a.v, b.v), _mm512_unpackhi_ps(a.v, b.v));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c.v, d.v), _mm512_unpackhi_ps(c.v, d.v));
  const __m512 all =
      _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return {_mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1))};
}
// Rows of a square become its columns.
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

#include "cpu/simd/lanes16.h"
