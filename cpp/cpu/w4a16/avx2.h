// Codes to floats in AVX2, 16 in two ymm, and the sizes of tiles. Included inside a
// target region and a namespace.
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

// 2^(23-p) + 2^(b-1) + the signed number in bits [p, p + b).
template <int bits, int p>
QCORE_INLINE Floats mantissa_of(Ints a) {
  constexpr int sign = 1 << (p + bits - 1);
  constexpr int mask = (1 << (p + bits)) - (1 << p);
  constexpr int exponent = (127 + 23 - p) << 23;
  return as_floats(exclusive_or(both(a, splat(mask)), splat(exponent | sign)));
}

template <int bits, int p>
QCORE_INLINE Floats field_in_mantissa(Ints a) {
  constexpr float bias = static_cast<float>((1 << (23 - p)) + (1 << (bits - 1)));
  return sub(mantissa_of<bits, p>(a), splat(bias));
}

template <int bits, int p>
QCORE_INLINE Floats field_by_shifts(Ints a) {
  return to_floats(shift_right_signed<32 - bits>(shift_left<32 - bits - p>(a)));
}

alignas(32) inline constexpr float kSigned2[8] = {0, 1, -2, -1, 0, 1, -2, -1};
alignas(32) inline constexpr float kSigned3[8] = {0, 1, 2, 3, -4, -3, -2, -1};

// The signed number in bits [shift, shift + bits).
template <int bits, int shift>
QCORE_INLINE Floats16 field(Ints16 a) {
  if constexpr (bits <= 3) {
    const Ints16 index = shift_right<shift>(a);
    const __m256 table = _mm256_load_ps(bits == 3 ? kSigned3 : kSigned2);
    return {{_mm256_permutevar8x32_ps(table, index.lo.v)},
            {_mm256_permutevar8x32_ps(table, index.hi.v)}};
  } else if constexpr (bits == 4 && shift < 16) {
    return {field_in_mantissa<bits, shift>(a.lo), field_in_mantissa<bits, shift>(a.hi)};
  } else {
    return {field_by_shifts<bits, shift>(a.lo), field_by_shifts<bits, shift>(a.hi)};
  }
}

// Zero points, as field_less() subtracts them. Where 4 bits are read in the mantissa, one
// subtraction takes off the zero point with the rest.
template <int bits>
struct ZeroPoint {
  Floats16 value;
};
template <>
struct ZeroPoint<4> {
  Floats16 value;
  Floats16 at[4];  // plus what field_in_mantissa() subtracts, for p = 0, 4, 8, 12
};

// Of floats less the center.
template <int bits>
QCORE_INLINE ZeroPoint<bits> zero_point(Floats16 zero) {
  if constexpr (bits == 4) {
    const auto plus = [&](int p) {
      return add(zero, splat<Floats16>(static_cast<float>((1 << (23 - p)) + 8)));
    };
    return {zero, {plus(0), plus(4), plus(8), plus(12)}};
  } else {
    return {zero};
  }
}

// The signed number in bits [shift, shift + bits) less the zero point.
template <int bits, int shift>
QCORE_INLINE Floats16 field_less(Ints16 a, const ZeroPoint<bits>& zero) {
  if constexpr (bits == 4 && shift < 16) {
    const Floats16& bias = zero.at[shift / 4];
    return {sub(mantissa_of<4, shift>(a.lo), bias.lo), sub(mantissa_of<4, shift>(a.hi), bias.hi)};
  } else {
    return sub(field<bits, shift>(a), zero.value);
  }
}
