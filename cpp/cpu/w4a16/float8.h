// 8-bit floats of a packed weight. Included by loops.h.

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
