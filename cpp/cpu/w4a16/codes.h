// The columns of a packed weight as floats. Included by loops.h.

// The float of 8 bits in bits [shift, shift + 8), whose sign is stored inverted (codes are stored
// centred). Moved to where a float has its fields, its exponent is too low by the difference of the
// biases; the largest exponents of e5m2, and NaN of e4m3, become infinity and NaN.
template <Float8 type, int shift>
QCORE_INLINE Floats float8_field(Ints a) {
  constexpr bool e4m3 = type == Float8::e4m3;
  constexpr int keep = static_cast<int>(e4m3 ? 0x87f00000u : 0x8fe00000u);
  constexpr int largest = e4m3 ? 0x07e00000 : 0x0f600000;
  const Ints top = exclusive_or(shift_left<24 - shift>(a), splat(INT32_MIN));
  const Ints bits = both(shift_right_signed<e4m3 ? 4 : 3>(top), splat(keep));
  const Floats value = multiply(as_floats(bits), splat(e4m3 ? 0x1p120f : 0x1p112f));
  const Ints magnitude = both(bits, splat(INT32_MAX));
  const Ints special = either(bits, splat(0x7f800000));
  return as_floats(select_less(splat(largest), magnitude, special, bits_of(value)));
}
template <Float8 type, int shift, class V>
QCORE_INLINE auto float8_field(Pair<V> a) {
  auto lo = float8_field<type, shift>(a.lo);
  return Pair<decltype(lo)>{lo, float8_field<type, shift>(a.hi)};
}

// A dword of each row that holds column C of a unit at bit column_shift(); the arrangement is told
// in panel16.h.
template <int bits, int C>
QCORE_INLINE Ints16 column_words(const uint32_t* unit) {
  constexpr panel16::Field f = panel16::field_of(bits, C);
  const Ints16 words = load_ints<Ints16>(unit + f.word * kRows);
  if constexpr (f.high_shift < 0) {
    return words;
  } else {
    const Ints16 high = shift_right<f.high_shift - 2>(load_ints<Ints16>(unit + 2 * kRows));
    return and_or(high, splat<Ints16>(4), shift_right<f.shift>(words));
  }
}
template <int bits, int C>
constexpr int column_shift() {
  constexpr panel16::Field f = panel16::field_of(bits, C);
  return f.high_shift < 0 ? f.shift : 0;
}

// Column C of a unit as signed numbers (of floats: as they are), one lane per row.
template <Elements elements, int C>
QCORE_INLINE Floats16 column(const uint32_t* unit) {
  constexpr int bits = bits_of(elements), shift = column_shift<bits, C>();
  if constexpr (is_float(elements)) {
    return float8_field<float8_of(elements), shift>(column_words<bits, C>(unit));
  } else {
    return field<bits, shift>(column_words<bits, C>(unit));
  }
}
// The same less the zero point of its row.
template <int bits, int C>
QCORE_INLINE Floats16 column_less(const uint32_t* unit, const ZeroPoint<bits>& zero) {
  return field_less<bits, column_shift<bits, C>()>(column_words<bits, C>(unit), zero);
}
