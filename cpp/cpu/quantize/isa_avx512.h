// The vector vocabulary of the quantizers in AVX512 (F, BW, DQ, VL): 16 floats. Included inside a
// target region and a namespace; <immintrin.h> comes before.

#include "cpu/simd/avx512.h"

inline constexpr int kLanes = 16;

struct Floats {
  __m512 v;
};
struct Ints {
  __m512i v;
};

QCORE_INLINE Floats splat(float a) {
  return {_mm512_set1_ps(a)};
}
QCORE_INLINE Floats load_floats(const void* p) {
  return {_mm512_loadu_ps(p)};
}
QCORE_INLINE Floats load_halves(const void* p) {
  return {floats_of_halves(p)};
}
QCORE_INLINE Floats load_brains(const void* p) {
  return {floats_of_brains(p)};
}
QCORE_INLINE void store(float* p, Floats a) {
  _mm512_storeu_ps(p, a.v);
}
QCORE_INLINE Floats multiply(Floats a, Floats b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
QCORE_INLINE Floats divide(Floats a, Floats b) {
  return {_mm512_div_ps(a.v, b.v)};
}
QCORE_INLINE Floats add(Floats a, Floats b) {
  return {_mm512_add_ps(a.v, b.v)};
}
QCORE_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
// b if one of them is NaN.
QCORE_INLINE Floats smaller(Floats a, Floats b) {
  return {_mm512_min_ps(a.v, b.v)};
}
QCORE_INLINE Floats larger(Floats a, Floats b) {
  return {_mm512_max_ps(a.v, b.v)};
}
QCORE_INLINE Floats round_to_even(Floats a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
QCORE_INLINE bool any_nan(Floats a) {
  return _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q) != 0;
}
QCORE_INLINE float least_of(Floats a) {
  return _mm512_reduce_min_ps(a.v);
}
QCORE_INLINE float most_of(Floats a) {
  return _mm512_reduce_max_ps(a.v);
}

QCORE_INLINE Ints splat(int32_t a) {
  return {_mm512_set1_epi32(a)};
}
QCORE_INLINE Ints bits_of(Floats a) {
  return {_mm512_castps_si512(a.v)};
}
QCORE_INLINE Floats as_floats(Ints a) {
  return {_mm512_castsi512_ps(a.v)};
}
QCORE_INLINE Ints to_ints(Floats a) {
  return {_mm512_cvtps_epi32(a.v)};
}
QCORE_INLINE Ints add(Ints a, Ints b) {
  return {_mm512_add_epi32(a.v, b.v)};
}
QCORE_INLINE Ints sub(Ints a, Ints b) {
  return {_mm512_sub_epi32(a.v, b.v)};
}
QCORE_INLINE Ints both(Ints a, Ints b) {
  return {_mm512_and_si512(a.v, b.v)};
}
QCORE_INLINE Ints either(Ints a, Ints b) {
  return {_mm512_or_si512(a.v, b.v)};
}
template <int n>
QCORE_INLINE Ints shift_right(Ints a) {
  return {_mm512_srli_epi32(a.v, n)};
}
// a < b ? yes : no, signed.
QCORE_INLINE Ints select_less(Ints a, Ints b, Ints yes, Ints no) {
  return {_mm512_mask_mov_epi32(no.v, _mm512_cmplt_epi32_mask(a.v, b.v), yes.v)};
}
// The low byte of each lane.
QCORE_INLINE void store_bytes(void* p, Ints a) {
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}
