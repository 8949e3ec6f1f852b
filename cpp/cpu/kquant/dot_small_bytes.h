// Codes times x where the sum of two products of bytes must stay below 2^15: unsigned codes up to
// 127 do, 2 * 127 * 127. Values of 8 bits and a sign are multiplied as their magnitude by x with
// their sign: 2 * 128 * 127.

inline constexpr bool kSignedDot = true;

// acc + the product of four codes and four signed bytes, in each lane.
template <bool codes_are_signed>
QCORE_INLINE Ints dot(Ints acc, Ints codes, const int32_t* x) {
  if constexpr (codes_are_signed) {
    return dot_small_bytes(acc, magnitude_of_bytes(codes), with_sign_of_bytes(splat(*x), codes));
  } else {
    return dot_small_bytes(acc, codes, splat(*x));
  }
}
