// Codes to floats in AVX512, 16 in one zmm, and the sizes of tiles. Included inside a
// target region and a namespace.
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
QCORE_INLINE Floats16 mantissa_of(Ints16 a) {
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
QCORE_INLINE Floats16 field(Ints16 a) {
  if constexpr (bits == 8) {
    return sub(mantissa_of<bits, shift>(a), {_mm512_set1_ps(place_bias(8, place_of(8, shift)))});
  } else {
    const float* table = bits == 4 ? kSigned4 : bits == 3 ? kSigned3 : kSigned2;
    const __m512i index = shift == 0 ? a.v : _mm512_srli_epi32(a.v, shift);
    return {_mm512_permutexvar_ps(index, _mm512_load_ps(table))};
  }
}

// Zero points, as field_less() subtracts them: together with the biases of the places.
template <int bits>
struct ZeroPoint {
  Floats16 at[places(bits)];
};

// Of floats less the center.
template <int bits>
QCORE_INLINE ZeroPoint<bits> zero_point(Floats16 zero) {
  ZeroPoint<bits> result;
  for (int i = 0; i < places(bits); ++i) {
    result.at[i] = add(zero, {_mm512_set1_ps(place_bias(bits, i * bits))});
  }
  return result;
}

// The signed number in bits [shift, shift + bits) less the zero point.
template <int bits, int shift>
QCORE_INLINE Floats16 field_less(Ints16 a, const ZeroPoint<bits>& zero) {
  return sub(mantissa_of<bits, shift>(a), zero.at[place_of(bits, shift) / bits]);
}
