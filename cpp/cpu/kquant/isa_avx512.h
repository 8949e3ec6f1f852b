// The vector vocabulary of the kquant loops in AVX512 (F, BW, DQ, VL, VNNI): 16 lanes, one row of
// the weight in each. Included inside a target region and a namespace; <immintrin.h> comes before.

#include "cpu/simd/avx512.h"

inline constexpr int kLanes = 16;
// A tile of 8 rows: three sums for each, of 32 registers.
inline constexpr int kTileRows = tile_rows(8);
// VPDPBUSD multiplies unsigned by signed bytes exactly, so signed codes are read with an offset.
inline constexpr bool kSignedDot = false;

struct Ints {
  __m512i v;
};
struct Floats {
  __m512 v;
};

QCORE_INLINE Ints load(const void* p) {
  return {_mm512_loadu_si512(p)};
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
  return {_mm512_slli_epi32(a.v, n)};
}
QCORE_INLINE Ints rotate_right(Ints a, int n) {
  return {_mm512_rorv_epi32(a.v, _mm512_set1_epi32(n))};
}
// (a & mask) | b
QCORE_INLINE Ints and_or(Ints a, Ints mask, Ints b) {
  return {_mm512_ternarylogic_epi32(a.v, mask.v, b.v, 0xea)};
}
QCORE_INLINE Ints exclusive_or(Ints a, Ints b) {
  return {_mm512_xor_si512(a.v, b.v)};
}
// table[byte] for bytes below 16.
QCORE_INLINE Ints lookup(const uint8_t* table, Ints bytes) {
  const __m128i t = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(t), bytes.v)};
}
// Bits [4u, 4u + 4) of each lane, one in each byte, at bit 4.
QCORE_INLINE Ints spread_four(Ints a, int u) {
  const __m512i nibble =
      _mm512_and_si512(_mm512_srlv_epi32(a.v, _mm512_set1_epi32(4 * u)), _mm512_set1_epi32(15));
  // One product puts copies 7 bits apart: bit i of the nibble stands at bit 8i + 4 of copy i.
  const __m512i copies = _mm512_mullo_epi32(nibble, _mm512_set1_epi32(0x02040810));
  return {_mm512_and_si512(copies, _mm512_set1_epi32(0x10101010))};
}

// acc + the product of four unsigned codes and four signed bytes, in each lane.
template <bool codes_are_signed>
QCORE_INLINE Ints dot(Ints acc, Ints codes, const int32_t* x) {
  static_assert(!codes_are_signed);
  // The broadcast belongs inside the instruction; compilers make a separate one of it.
  __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc.v) : "v"(codes.v), "m"(*x));
  return acc;
}

QCORE_INLINE Floats load_floats(const void* p) {
  return {_mm512_loadu_ps(p)};
}
QCORE_INLINE void store(void* p, Floats a) {
  _mm512_storeu_ps(p, a.v);
}
QCORE_INLINE Floats splat(float a) {
  return {_mm512_set1_ps(a)};
}
QCORE_INLINE Floats to_floats(Ints a) {
  return {_mm512_cvtepi32_ps(a.v)};
}
QCORE_INLINE Floats as_floats(Ints a) {
  return {_mm512_castsi512_ps(a.v)};
}
QCORE_INLINE Ints round_to_ints(Floats a) {
  return {_mm512_cvtps_epi32(a.v)};
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
QCORE_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
QCORE_INLINE Floats negate(Floats a) {
  return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))};
}
// The larger; b if one of them is NaN.
QCORE_INLINE Floats larger(Floats a, Floats b) {
  return {_mm512_max_ps(a.v, b.v)};
}
QCORE_INLINE Floats magnitude(Floats a) {
  return {_mm512_abs_ps(a.v)};
}

// Halves of `kLanes` rows, side by side.
QCORE_INLINE Floats load_halves(const void* p) {
  return {floats_of_halves(p)};
}
// The low and the high half of each lane.
QCORE_INLINE Floats low_halves(Ints a) {
  return {_mm512_cvtph_ps(_mm512_cvtepi32_epi16(a.v))};
}
QCORE_INLINE Floats high_halves(Ints a) {
  return low_halves(shift_right<16>(a));
}
QCORE_INLINE Ints load_bytes(const void* p) {
  return {_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
}

// Into the second cache.
QCORE_INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
}

// 16-bit products.
QCORE_INLINE Ints multiply_pairs(Ints a, Ints b) {
  return {_mm512_mullo_epi16(a.v, b.v)};
}
// a << count, lane by lane; 0 from 32 on.
QCORE_INLINE Ints shift_left_each(Ints a, Ints count) {
  return {_mm512_sllv_epi32(a.v, count.v)};
}
// a < limit ? yes : no
QCORE_INLINE Ints select_below(Ints a, int limit, Ints yes, Ints no) {
  const __mmask16 below = _mm512_cmplt_epi32_mask(a.v, _mm512_set1_epi32(limit));
  return {_mm512_mask_mov_epi32(no.v, below, yes.v)};
}

QCORE_INLINE Floats load_brains(const void* p) {
  return {floats_of_brains(p)};
}
QCORE_INLINE float horizontal_max(Floats a) {
  return _mm512_reduce_max_ps(a.v);
}
QCORE_INLINE float horizontal_sum(Floats a) {
  return _mm512_reduce_add_ps(a.v);
}
// The low byte of each lane.
QCORE_INLINE void store_as_bytes(void* p, Ints a) {
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}

// Keeps the compiler from putting this sum off: it likes to add products up in a tree, and then
// runs out of registers for the terms.
QCORE_INLINE void settle(Ints& a) {
  __asm__("" : "+v"(a.v));
}
QCORE_INLINE void store_halves(void* p, Floats a) {
  store_as_halves(p, a.v);
}
QCORE_INLINE void store_brains(void* p, Floats a) {
  store_as_brains(p, a.v);
}
QCORE_INLINE Ints shift_right_each(Ints a, Ints count) {
  return {_mm512_srlv_epi32(a.v, count.v)};
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
// acc + the products of both signed halves.
QCORE_INLINE Ints multiply_add_pairs(Ints acc, Ints a, Ints b) {
  return {_mm512_dpwssd_epi32(acc.v, a.v, b.v)};
}
