// Bits of the lanes, where block formats have them. Included by loops.h.

QCORE_INLINE Ints low_nibbles(Ints a) {
  return both(a, splat(0x0f0f0f0f));
}
QCORE_INLINE Ints high_nibbles(Ints a) {
  return low_nibbles(shift_right<4>(a));
}
template <int nibble>
QCORE_INLINE Ints nibbles(Ints a) {
  return nibble == 0 ? low_nibbles(a) : high_nibbles(a);
}
// Bit `from` goes to bit `to`.
template <int from, int to>
QCORE_INLINE Ints move_bits(Ints a) {
  if constexpr (from >= to) {
    return shift_right<from - to>(a);
  } else {
    return shift_left<to - from>(a);
  }
}
// Two bits of each byte, from bit `from` to bit `to`.
template <int from, int to>
QCORE_INLINE Ints two_bits(Ints a) {
  return both(move_bits<from, to>(a), splat(static_cast<int32_t>(0x03030303u << to)));
}
template <int byte>
QCORE_INLINE Ints unsigned_byte(Ints a) {
  if constexpr (byte == 3) return shift_right<24>(a);
  return both(shift_right<8 * byte>(a), splat(255));
}
template <int byte>
QCORE_INLINE Ints signed_byte(Ints a) {
  return shift_right_signed<24>(shift_left<24 - 8 * byte>(a));
}

// Bits [4u, 4u + 4) of each lane, one in each byte, at bit 4.
template <int u>
QCORE_INLINE Ints spread_four(Ints a) {
  const Ints nibble = both(shift_right<4 * u>(a), splat(15));
  // One product puts copies 7 bits apart: bit i of the nibble stands at bit 8i + 4 of copy i.
  return both(multiply(nibble, splat(0x02040810)), splat(0x10101010));
}

// Bytes 0 and 1 of each lane as its halves.
QCORE_INLINE Ints pair_bytes(Ints a) {
  return and_or(a, splat(255), shift_left<8>(both(a, splat(0xff00))));
}

// The four bytes of each lane, less `offset`, as four vectors.
QCORE_INLINE void store_unsigned(Ints bytes, int offset, int32_t* out) {
  const Ints less = splat(offset);
  store(out, sub(unsigned_byte<0>(bytes), less));
  store(out + kLanes, sub(unsigned_byte<1>(bytes), less));
  store(out + 2 * kLanes, sub(unsigned_byte<2>(bytes), less));
  store(out + 3 * kLanes, sub(unsigned_byte<3>(bytes), less));
}
// The same as two vectors of 16-bit pairs.
QCORE_INLINE void store_pairs(Ints bytes, int offset, int32_t* out) {
  const Ints less = splat(offset * 0x10001);
  store(out, sub_pairs(pair_bytes(bytes), less));
  store(out + kLanes, sub_pairs(pair_bytes(shift_right<16>(bytes)), less));
}
QCORE_INLINE void store_signed(Ints bytes, int32_t* out) {
  store(out, signed_byte<0>(bytes));
  store(out + kLanes, signed_byte<1>(bytes));
  store(out + 2 * kLanes, signed_byte<2>(bytes));
  store(out + 3 * kLanes, signed_byte<3>(bytes));
}
