// The vector vocabulary of loops.h in AVX512 (F, BW, DQ, VL): 16 lanes are one zmm.
// Included inside a target region and a namespace; <immintrin.h> comes before.
//
// A code becomes a float in one of two ways:
//   symmetric weights of at most 4 bits: VPERMPS from a table of 16; the instruction looks only at
//     the low 4 bits of an index, so the bits above need no AND. For 2 and 3 bits the table
//     repeats.
//   8 bits, and zero points: where the code stands. In a float of exponent 23 - p, bit p of the
//     mantissa weighs 1, so (dword & field) ^ (exponent | sign bit of the field), one VPTERNLOGD,
//     is 2^(23-p) + 2^(b-1) + code, and one subtraction leaves the code, less a zero point if there
//     is one; all of it is exact.

#include "cpu/simd/avx512.h"

// A register tile of 8 rows x 2 panels: 16 accumulators of 32 registers. VFMADD takes 4 cycles, 1
// or 2 start per cycle, so 8 chains keep the units busy.
inline constexpr int kTileRows = 8;
inline constexpr int kTilePanels = 2;
// Blocks of so many rows or fewer decode weights in registers, `direct_panels` panels at once: with
// few rows, one panel would not give enough independent chains of multiply-adds.
inline constexpr int kDirectRows = 32;
constexpr int direct_panels(int rows) {
  return rows <= 3 ? 4 : 2;
}

struct F32x16 {
  __m512 v;
};
struct U32x16 {
  __m512i v;
};

QCORE_INLINE F32x16 zero() {
  return {_mm512_setzero_ps()};
}
QCORE_INLINE F32x16 broadcast(const float* p) {
  return {_mm512_set1_ps(*p)};
}
QCORE_INLINE F32x16 load(const float* p) {
  return {_mm512_loadu_ps(p)};
}
QCORE_INLINE void store(float* p, F32x16 a) {
  _mm512_storeu_ps(p, a.v);
}
QCORE_INLINE F32x16 add(F32x16 a, F32x16 b) {
  return {_mm512_add_ps(a.v, b.v)};
}
QCORE_INLINE F32x16 sub(F32x16 a, F32x16 b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
QCORE_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
// w * *x + acc with the broadcast inside the instruction. Compilers share one broadcast between
// several multiply-adds; that separate instruction costs a slot where the decoding needs it.
QCORE_INLINE F32x16 fma_broadcast(const float* x, F32x16 w, F32x16 acc) {
  __asm__("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(acc.v) : "v"(w.v), "m"(*x));
  return acc;
}

QCORE_INLINE F32x16 load_f16(const void* p) {
  return {floats_of_halves(p)};
}
QCORE_INLINE F32x16 load_bf16(const void* p) {
  return {floats_of_brains(p)};
}
QCORE_INLINE F32x16 load_u8(const uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))};
}
QCORE_INLINE void store_f16(void* p, F32x16 a) {
  store_as_halves(p, a.v);
}
QCORE_INLINE void store_bf16(void* p, F32x16 a) {
  store_as_brains(p, a.v);
}

QCORE_INLINE U32x16 load_words(const uint32_t* p) {
  return {_mm512_loadu_si512(p)};
}
template <int n>
QCORE_INLINE U32x16 shift_right(U32x16 a) {
  return {_mm512_srli_epi32(a.v, n)};
}
// (a & mask) | b
QCORE_INLINE U32x16 and_or(U32x16 a, int mask, U32x16 b) {
  return {_mm512_ternarylogic_epi32(a.v, _mm512_set1_epi32(mask), b.v, 0xea)};
}

alignas(64) inline constexpr float kSigned2[16] = {0, 1, -2, -1, 0, 1, -2, -1,
                                                   0, 1, -2, -1, 0, 1, -2, -1};
alignas(64) inline constexpr float kSigned3[16] = {0, 1, 2, 3, -4, -3, -2, -1,
                                                   0, 1, 2, 3, -4, -3, -2, -1};
alignas(64) inline constexpr float kSigned4[16] = {0,  1,  2,  3,  4,  5,  6,  7,
                                                   -8, -7, -6, -5, -4, -3, -2, -1};

// Fields are read where they stand for so many places; the next ones after a shift that they share.
constexpr int places(int bits) {
  return bits == 8 ? 2 : 4;
}
constexpr int place_of(int bits, int shift) {
  return shift % (places(bits) * bits);
}
// What mantissa_of() adds to the number at place p.
constexpr float place_bias(int bits, int p) {
  return static_cast<float>((1 << (23 - p)) + (1 << (bits - 1)));
}

// The signed number in bits [shift, shift + bits) plus place_bias().
template <int bits, int shift>
QCORE_INLINE F32x16 mantissa_of(U32x16 a) {
  constexpr int p = place_of(bits, shift);
  constexpr int mask = ((1 << bits) - 1) << p;
  constexpr int exponent = (127 + 23 - p) << 23;
  constexpr int sign = 1 << (p + bits - 1);
  const __m512i moved = shift == p ? a.v : _mm512_srli_epi32(a.v, shift - p);
  return {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(moved, _mm512_set1_epi32(mask),
                                                        _mm512_set1_epi32(exponent | sign), 0x6a))};
}

// The signed number in bits [shift, shift + bits).
template <int bits, int shift>
QCORE_INLINE F32x16 field(U32x16 a) {
  if constexpr (bits == 8) {
    return sub(mantissa_of<bits, shift>(a), {_mm512_set1_ps(place_bias(8, place_of(8, shift)))});
  } else {
    const float* table = bits == 4 ? kSigned4 : bits == 3 ? kSigned3 : kSigned2;
    const __m512i index = shift == 0 ? a.v : _mm512_srli_epi32(a.v, shift);
    return {_mm512_permutexvar_ps(index, _mm512_load_ps(table))};
  }
}

// The float of 8 bits in bits [shift, shift + 8), whose sign is stored inverted (codes are stored
// centred). Moved to where a float has its fields, its exponent is too low by the difference of the
// biases; the largest exponents of e5m2, and NaN of e4m3, become infinity and NaN.
template <Float8 type, int shift>
QCORE_INLINE F32x16 float8_field(U32x16 a) {
  constexpr bool e4m3 = type == Float8::e4m3;
  constexpr int down = e4m3 ? 4 : 3;
  constexpr int keep = static_cast<int>(e4m3 ? 0x87f00000u : 0x8fe00000u);
  constexpr int largest = e4m3 ? 0x07e00000 : 0x0f600000;
  const __m512i top =
      _mm512_xor_si512(_mm512_slli_epi32(a.v, 24 - shift), _mm512_set1_epi32(INT32_MIN));
  const __m512i bits = _mm512_and_si512(_mm512_srai_epi32(top, down), _mm512_set1_epi32(keep));
  const __m512 value =
      _mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(e4m3 ? 0x1p120f : 0x1p112f));
  const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(INT32_MAX));
  const __mmask16 beyond = _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(largest));
  return {_mm512_castsi512_ps(_mm512_mask_or_epi32(_mm512_castps_si512(value), beyond, bits,
                                                   _mm512_set1_epi32(0x7f800000)))};
}

// Zero points, as field_less() subtracts them: together with the biases of the places.
template <int bits>
struct ZeroPoint {
  F32x16 at[places(bits)];
};

// Of floats less the center.
template <int bits>
QCORE_INLINE ZeroPoint<bits> zero_point(F32x16 zero) {
  ZeroPoint<bits> result;
  for (int i = 0; i < places(bits); ++i) {
    result.at[i] = add(zero, {_mm512_set1_ps(place_bias(bits, i * bits))});
  }
  return result;
}

// The signed number in bits [shift, shift + bits) less the zero point.
template <int bits, int shift>
QCORE_INLINE F32x16 field_less(U32x16 a, const ZeroPoint<bits>& zero) {
  return sub(mantissa_of<bits, shift>(a), zero.at[place_of(bits, shift) / bits]);
}

QCORE_INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}
