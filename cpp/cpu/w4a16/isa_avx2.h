// The vector vocabulary of loops.h in AVX2 + FMA + F16C: 16 lanes are two ymm.
// Included inside a target region and a namespace; <immintrin.h> comes before.
//
// A code becomes a float in one of three ways:
//   2, 3 bits: VPERMPS from a table of 8; the instruction looks only at the low 3 bits of an index.
//   8 bits, and columns 4..7 of a dword of 4 bits: shifted to the top, back down with the sign, and
//     VCVTDQ2PS.
//   columns 0..3 of a dword of 4 bits: where the code stands. In a float of exponent 23 - p, bit p
//   of
//     the mantissa weighs 1, so (dword & field) ^ (exponent | sign bit of the field) is
//     2^(23-p) + 2^(b-1) + code, and a subtraction leaves the code; all of it is exact.
// The third needs no shift, which only two of the four vector pipes of Zen 4 do, but three
// constants for each place: half of the columns each way keeps the pipes even and the constants
// few.

#include "cpu/simd/avx2.h"

// A register tile of 6 rows x 1 panel: 12 accumulators of 16 registers; two more hold the weights
// and one the activation.
inline constexpr int kTileRows = 6;
inline constexpr int kTilePanels = 1;
// Blocks of so many rows or fewer decode weights in registers, `direct_panels` panels at once: with
// few rows, one panel would not give enough independent chains of multiply-adds.
inline constexpr int kDirectRows = 12;
constexpr int direct_panels(int rows) {
  return rows <= 2 ? 2 : 1;
}

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
QCORE_INLINE F32x16 fma_broadcast(const float* x, F32x16 w, F32x16 acc) {
  return fma(broadcast(x), w, acc);
}

QCORE_INLINE F32x16 load_f16(const void* p) {
  const __m128i* half = static_cast<const __m128i*>(p);
  return {floats_of_halves(half), floats_of_halves(half + 1)};
}
QCORE_INLINE F32x16 load_bf16(const void* p) {
  const __m128i* half = static_cast<const __m128i*>(p);
  return {floats_of_brains(half), floats_of_brains(half + 1)};
}
QCORE_INLINE F32x16 load_u8(const uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}
QCORE_INLINE void store_f16(void* p, F32x16 a) {
  __m128i* half = static_cast<__m128i*>(p);
  store_as_halves(half, a.lo);
  store_as_halves(half + 1, a.hi);
}
QCORE_INLINE void store_bf16(void* p, F32x16 a) {
  __m128i* half = static_cast<__m128i*>(p);
  store_as_brains(half, a.lo);
  store_as_brains(half + 1, a.hi);
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

// 2^(23-p) + 2^(b-1) + the signed number in bits [p, p + b).
template <int bits, int p>
QCORE_INLINE __m256 mantissa_of(__m256i a) {
  constexpr int sign = 1 << (p + bits - 1);
  constexpr int mask = (1 << (p + bits)) - (1 << p);
  constexpr int exponent = (127 + 23 - p) << 23;
  const __m256i field = _mm256_and_si256(a, _mm256_set1_epi32(mask));
  return _mm256_castsi256_ps(_mm256_xor_si256(field, _mm256_set1_epi32(exponent | sign)));
}

template <int bits, int p>
QCORE_INLINE __m256 field_in_mantissa(__m256i a) {
  constexpr float bias = static_cast<float>((1 << (23 - p)) + (1 << (bits - 1)));
  return _mm256_sub_ps(mantissa_of<bits, p>(a), _mm256_set1_ps(bias));
}

template <int bits, int p>
QCORE_INLINE __m256 field_by_shifts(__m256i a) {
  constexpr int up = 32 - bits - p;
  const __m256i high = up == 0 ? a : _mm256_slli_epi32(a, up);
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(high, 32 - bits));
}

alignas(32) inline constexpr float kSigned2[8] = {0, 1, -2, -1, 0, 1, -2, -1};
alignas(32) inline constexpr float kSigned3[8] = {0, 1, 2, 3, -4, -3, -2, -1};

// The signed number in bits [shift, shift + bits).
template <int bits, int shift>
QCORE_INLINE F32x16 field(U32x16 a) {
  if constexpr (bits <= 3) {
    const U32x16 index = shift_right<shift>(a);
    const __m256 table = _mm256_load_ps(bits == 3 ? kSigned3 : kSigned2);
    return {_mm256_permutevar8x32_ps(table, index.lo), _mm256_permutevar8x32_ps(table, index.hi)};
  } else if constexpr (bits == 4 && shift < 16) {
    return {field_in_mantissa<bits, shift>(a.lo), field_in_mantissa<bits, shift>(a.hi)};
  } else {
    return {field_by_shifts<bits, shift>(a.lo), field_by_shifts<bits, shift>(a.hi)};
  }
}

// The float of 8 bits in bits [shift, shift + 8), whose sign is stored inverted (codes are stored
// centred). Moved to where a float has its fields, its exponent is too low by the difference of the
// biases; the largest exponents of e5m2, and NaN of e4m3, become infinity and NaN.
template <Float8 type, int shift>
QCORE_INLINE __m256 float8_field(__m256i a) {
  constexpr bool e4m3 = type == Float8::e4m3;
  constexpr int down = e4m3 ? 4 : 3;
  constexpr int keep = static_cast<int>(e4m3 ? 0x87f00000u : 0x8fe00000u);
  constexpr int largest = e4m3 ? 0x07e00000 : 0x0f600000;
  const __m256i top =
      _mm256_xor_si256(_mm256_slli_epi32(a, 24 - shift), _mm256_set1_epi32(INT32_MIN));
  const __m256i bits = _mm256_and_si256(_mm256_srai_epi32(top, down), _mm256_set1_epi32(keep));
  const __m256 value =
      _mm256_mul_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(e4m3 ? 0x1p120f : 0x1p112f));
  const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(INT32_MAX));
  const __m256i beyond = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(largest));
  const __m256i special = _mm256_or_si256(bits, _mm256_set1_epi32(0x7f800000));
  return _mm256_blendv_ps(value, _mm256_castsi256_ps(special), _mm256_castsi256_ps(beyond));
}
template <Float8 type, int shift>
QCORE_INLINE F32x16 float8_field(U32x16 a) {
  return {float8_field<type, shift>(a.lo), float8_field<type, shift>(a.hi)};
}

// Zero points, as field_less() subtracts them. Where 4 bits are read in the mantissa, one
// subtraction takes off the zero point with the rest.
template <int bits>
struct ZeroPoint {
  F32x16 value;
};
template <>
struct ZeroPoint<4> {
  F32x16 value;
  F32x16 at[4];  // plus what field_in_mantissa() subtracts, for p = 0, 4, 8, 12
};

// Of floats less the center.
template <int bits>
QCORE_INLINE ZeroPoint<bits> zero_point(F32x16 zero) {
  if constexpr (bits == 4) {
    const auto plus = [&](int p) {
      const __m256 bias = _mm256_set1_ps(static_cast<float>((1 << (23 - p)) + 8));
      return add(zero, F32x16{bias, bias});
    };
    return {zero, {plus(0), plus(4), plus(8), plus(12)}};
  } else {
    return {zero};
  }
}

// The signed number in bits [shift, shift + bits) less the zero point.
template <int bits, int shift>
QCORE_INLINE F32x16 field_less(U32x16 a, const ZeroPoint<bits>& zero) {
  if constexpr (bits == 4 && shift < 16) {
    const F32x16& bias = zero.at[shift / 4];
    return {_mm256_sub_ps(mantissa_of<4, shift>(a.lo), bias.lo),
            _mm256_sub_ps(mantissa_of<4, shift>(a.hi), bias.hi)};
  } else {
    return sub(field<bits, shift>(a), zero.value);
  }
}

QCORE_INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}
