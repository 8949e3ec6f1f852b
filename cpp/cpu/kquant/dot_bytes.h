// Codes times x where there is a product of unsigned by signed bytes that is exact for all of them:
// signed codes are read with an offset.

inline constexpr bool kSignedDot = false;

// acc + the product of four unsigned codes and four signed bytes, in each lane.
template <bool codes_are_signed>
QCORE_INLINE Ints dot(Ints acc, Ints codes, const int32_t* x) {
  static_assert(!codes_are_signed);
  return dot_bytes_broadcast(acc, codes, x);
}
