// One decoder per block format: how a vector of dwords of layout block16 becomes four codes in the
// bytes of each lane, and where scales and minima lie. Included by loops.h. Which dword is which is
// decided by fields_of() of block16.cpp.
//
// A decoder has
//   kElements         of a block;  kGroup: elements that share an integer scale, if kScaled
//   kChunks           like pieces of a block, each of kParts dwords of codes
//   codes<part>()     elements 4 * part .. 4 * part + 3 of the chunk: value + kOffset, unsigned; if
//                     is_signed<D>, the values
//   scales()          the integer scales of all groups (if kScaled), kLanes of each; if kPaired,
//                     two groups in the halves of each lane: the sums of a group fit in 16 bits
//   shift(part)       by how many bits its codes stand too far to the left in their bytes; only if
//                     kPaired, and the same for both groups of a pair
//   kMinima           none, one float for the block, or an integer for each kMinimumGroup elements
//   minima(q)         those of groups 4q .. 4q + 3, in the bytes of each lane
//   d(), minimum()    the scale of the block; of its minima, or what is subtracted

enum class Minima { none, one, integers };

// Values of 8 bits and a sign: where there is no product of unsigned by signed bytes that is exact
// for all of them, they are multiplied by another way.
template <class D>
inline constexpr bool is_signed = kSignedDot && D::kOffset == 128;

// Where kLanes rows of a block lie (block16.h).
struct Strip {
  const uint8_t* dwords;
  const uint8_t* rest;

  QCORE_INLINE Ints dword(int i) const { return load_ints(dwords + int64_t{i} * 64); }
};

// ---- blocks of 32 ----

struct Block32 {
  static constexpr int kElements = 32, kGroup = 32, kMinimumGroup = 32, kChunks = 1, kParts = 8;
  static constexpr bool kScaled = false, kPaired = false;
  static constexpr Minima kMinima = Minima::none;
  static constexpr int shift(int) { return 0; }
};

struct Nibbles32 : Block32 {
  // Byte i holds elements i and i + 16.
  template <int part, int first = 0>
  QCORE_INLINE static Ints nibble(const Strip& s) {
    return nibbles<part / 4>(s.dword(first + part % 4));
  }
};

template <class Format>
struct Decoder;

template <>
struct Decoder<blocks::Q4_0> : Nibbles32 {
  using Format = blocks::Q4_0;
  static constexpr int kOffset = 8;
  template <int part>
  QCORE_INLINE static Ints codes(const Strip& s, int) {
    return nibble<part>(s);
  }
  QCORE_INLINE static Floats d(const Strip& s) { return load_f16(s.rest); }
};

template <>
struct Decoder<blocks::Q4_1> : Nibbles32 {
  using Format = blocks::Q4_1;
  static constexpr int kOffset = 0;
  static constexpr Minima kMinima = Minima::one;
  template <int part>
  QCORE_INLINE static Ints codes(const Strip& s, int) {
    return nibble<part, 1>(s);
  }
  QCORE_INLINE static Floats d(const Strip& s) { return low_f16(s.dword(0)); }
  QCORE_INLINE static Floats minimum(const Strip& s) { return negate(high_f16(s.dword(0))); }
};

template <>
struct Decoder<blocks::Q5_0> : Nibbles32 {
  using Format = blocks::Q5_0;
  static constexpr int kOffset = 16;
  template <int part>
  QCORE_INLINE static Ints codes(const Strip& s, int) {
    return add(nibble<part, 1>(s), spread_four<part>(s.dword(0)));
  }
  QCORE_INLINE static Floats d(const Strip& s) { return load_f16(s.rest); }
};

template <>
struct Decoder<blocks::Q5_1> : Nibbles32 {
  using Format = blocks::Q5_1;
  static constexpr int kOffset = 0;
  static constexpr Minima kMinima = Minima::one;
  template <int part>
  QCORE_INLINE static Ints codes(const Strip& s, int) {
    return add(nibble<part, 2>(s), spread_four<part>(s.dword(1)));
  }
  QCORE_INLINE static Floats d(const Strip& s) { return low_f16(s.dword(0)); }
  QCORE_INLINE static Floats minimum(const Strip& s) { return negate(high_f16(s.dword(0))); }
};

template <>
struct Decoder<blocks::Q8_0> : Block32 {
  using Format = blocks::Q8_0;
  static constexpr int kOffset = 128;
  template <int part>
  QCORE_INLINE static Ints codes(const Strip& s, int) {
    if constexpr (kSignedDot) return s.dword(part);
    return exclusive_or(s.dword(part), splat(static_cast<int32_t>(0x80808080u)));
  }
  QCORE_INLINE static Floats d(const Strip& s) { return load_f16(s.rest); }
};

// Values of codes plus an offset.
alignas(16) inline constexpr uint8_t kIQ4Values[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                                       129, 141, 153, 166, 181, 197, 217, 241};
alignas(16) inline constexpr uint8_t kE2M1Values[16] = {12, 13, 14, 15, 16, 18, 20, 24,
                                                        12, 11, 10, 9,  8,  6,  4,  0};

QCORE_INLINE Ints iq4_codes(Ints nibbles) {
  const Ints codes = lookup(kIQ4Values, nibbles);
  if constexpr (kSignedDot) return exclusive_or(codes, splat(static_cast<int32_t>(0x80808080u)));
  return codes;
}

template <>
struct Decoder<blocks::IQ4_NL> : Nibbles32 {
  using Format = blocks::IQ4_NL;
  static constexpr int kOffset = 128;
  template <int part>
  QCORE_INLINE static Ints codes(const Strip& s, int) {
    return iq4_codes(nibble<part>(s));
  }
  QCORE_INLINE static Floats d(const Strip& s) { return load_f16(s.rest); }
};

template <>
struct Decoder<blocks::MXFP4> : Nibbles32 {
  using Format = blocks::MXFP4;
  static constexpr int kOffset = 12;
  template <int part>
  QCORE_INLINE static Ints codes(const Strip& s, int) {
    return lookup(kE2M1Values, nibble<part>(s));
  }
  // Half of 2^(e - 127); the two least are subnormal.
  QCORE_INLINE static Floats d(const Strip& s) {
    const Ints e = load_bytes(s.rest);
    const Ints normal = shift_left<23>(sub(e, splat(1)));
    return as_floats(select_less(e, splat(2), shift_left_each(splat(0x200000), e), normal));
  }
};

// ---- blocks of 256 ----

struct Block256 {
  static constexpr int kElements = 256;
  static constexpr Minima kMinima = Minima::none;
  static constexpr int kMinimumGroup = 256;
  static constexpr bool kPaired = false;
  static constexpr int kOffset = 0;
  static constexpr int shift(int) { return 0; }
};

// Q4_K and Q5_K: dword 0 holds d and the scale of the minima, dwords 1 to 3 eight 6-bit scales and
// minima.
struct SixBitGroups : Block256 {
  static constexpr int kGroup = 32, kMinimumGroup = 32, kChunks = 4, kParts = 16;
  static constexpr bool kScaled = true;
  static constexpr Minima kMinima = Minima::integers;

  QCORE_INLINE static void scales(const Strip& s, int32_t* out) {
    const Ints a = s.dword(1), c = s.dword(3);
    store_unsigned(both(a, splat(0x3f3f3f3f)), 0, out);
    store_unsigned(and_or(shift_right<2>(a), splat(0x30303030), low_nibbles(c)), 0,
                   out + 4 * kLanes);
  }
  QCORE_INLINE static Ints minima(const Strip& s, int quad) {
    const Ints b = s.dword(2);
    if (quad == 0) return both(b, splat(0x3f3f3f3f));
    return and_or(shift_right<2>(b), splat(0x30303030), high_nibbles(s.dword(3)));
  }
  QCORE_INLINE static Floats d(const Strip& s) { return low_f16(s.dword(0)); }
  QCORE_INLINE static Floats minimum(const Strip& s) { return high_f16(s.dword(0)); }
};

template <>
struct Decoder<blocks::Q4_K> : SixBitGroups {
  using Format = blocks::Q4_K;
  template <int part>
  QCORE_INLINE static Ints codes(const Strip& s, int chunk) {
    return nibbles<part / 8>(s.dword(4 + 8 * chunk + part % 8));
  }
};

template <>
struct Decoder<blocks::Q5_K> : SixBitGroups {
  using Format = blocks::Q5_K;
  template <int part>
  QCORE_INLINE static Ints codes(const Strip& s, int chunk) {
    // Bit g of the byte, from where it comes to bit 4.
    const Ints high = rotate_right(s.dword(4 + part % 8), (2 * chunk + part / 8 + 28) & 31);
    const Ints low = nibbles<part / 8>(s.dword(12 + 8 * chunk + part % 8));
    return and_or(high, splat(0x10101010), low);
  }
};

struct SixteenGroups : Block256 {
  static constexpr int kGroup = 16, kChunks = 2, kParts = 32;
  static constexpr bool kScaled = true;
};

template <>
struct Decoder<blocks::Q2_K> : SixteenGroups {
  using Format = blocks::Q2_K;
  static constexpr Minima kMinima = Minima::integers;
  static constexpr int kMinimumGroup = 16;
  static constexpr bool kPaired = true;  // 16 * 3 * 127
  // Codes are multiplied where they stand, and sums are shifted instead: a quarter as many. Without
  // VNNI products of 192 and 127 would be too large.
  static constexpr int shift(int part) { return kSignedDot ? 0 : part / 8 * 2; }
  template <int part>
  QCORE_INLINE static Ints codes(const Strip& s, int chunk) {
    return two_bits<part / 8 * 2, shift(part)>(s.dword(5 + 8 * chunk + part % 8));
  }
  QCORE_INLINE static void scales(const Strip& s, int32_t* out) {
    for (int quad = 0; quad < 4; ++quad) {
      store_pairs(low_nibbles(s.dword(1 + quad)), 0, out + 2 * quad * kLanes);
    }
  }
  QCORE_INLINE static Ints minima(const Strip& s, int quad) {
    return high_nibbles(s.dword(1 + quad));
  }
  QCORE_INLINE static Floats d(const Strip& s) { return low_f16(s.dword(0)); }
  QCORE_INLINE static Floats minimum(const Strip& s) { return high_f16(s.dword(0)); }
};

template <>
struct Decoder<blocks::Q3_K> : SixteenGroups {
  using Format = blocks::Q3_K;
  static constexpr int kOffset = 4;
  static constexpr bool kPaired = true;  // 16 * 4 * 127
  template <int part>
  QCORE_INLINE static Ints codes(const Strip& s, int chunk) {
    constexpr int j = part / 8;
    const Ints high = rotate_right(s.dword(3 + part % 8), (4 * chunk + j + 30) & 31);
    return and_or(high, splat(0x04040404), two_bits<2 * j, 0>(s.dword(11 + 8 * chunk + part % 8)));
  }
  // Low nibbles of the eight bytes are groups 0 to 7, high ones 8 to 15; bits 4 and 5 of group i
  // are in byte i % 4 of the last dword.
  QCORE_INLINE static void scales(const Strip& s, int32_t* out) {
    const Ints a = s.dword(0), b = s.dword(1), h = s.dword(2);
    store_pairs(add(low_nibbles(a), two_bits<0, 4>(h)), 32, out);
    store_pairs(add(low_nibbles(b), two_bits<2, 4>(h)), 32, out + 2 * kLanes);
    store_pairs(add(high_nibbles(a), two_bits<4, 4>(h)), 32, out + 4 * kLanes);
    store_pairs(add(high_nibbles(b), two_bits<6, 4>(h)), 32, out + 6 * kLanes);
  }
  QCORE_INLINE static Floats d(const Strip& s) { return load_f16(s.rest); }
};

template <>
struct Decoder<blocks::Q6_K> : SixteenGroups {
  using Format = blocks::Q6_K;
  static constexpr int kOffset = 32;
  template <int part>
  QCORE_INLINE static Ints codes(const Strip& s, int chunk) {
    constexpr int j = part / 8;  // 32 elements each: low nibbles of both halves, then high ones
    const Ints low = nibbles<j / 2>(s.dword(4 + 24 * chunk + j % 2 * 16 + part % 8));
    const Ints high = move_bits<2 * j, 4>(s.dword(12 + 24 * chunk + part % 8));
    return and_or(high, splat(0x30303030), low);
  }
  QCORE_INLINE static void scales(const Strip& s, int32_t* out) {
    for (int quad = 0; quad < 4; ++quad) {
      store_signed(s.dword(quad), out + 4 * quad * kLanes);
    }
  }
  QCORE_INLINE static Floats d(const Strip& s) { return load_f16(s.rest); }
};

template <>
struct Decoder<blocks::IQ4_XS> : Block256 {
  using Format = blocks::IQ4_XS;
  static constexpr int kGroup = 32, kChunks = 8, kParts = 8, kOffset = 128;
  static constexpr bool kScaled = true;
  template <int part>
  QCORE_INLINE static Ints codes(const Strip& s, int chunk) {
    return iq4_codes(nibbles<part / 4>(s.dword(2 + 4 * chunk + part % 4)));
  }
  QCORE_INLINE static void scales(const Strip& s, int32_t* out) {
    const Ints low = s.dword(1), high = s.dword(0);
    store_scales(low, high, out, std::make_integer_sequence<int, 8>());
  }
  QCORE_INLINE static Floats d(const Strip& s) { return low_f16(s.dword(0)); }

 private:
  // Four bits of group g in one dword, two in the upper half of another.
  template <int... g>
  QCORE_INLINE static void store_scales(Ints low, Ints high, int32_t* out,
                                        std::integer_sequence<int, g...>) {
    (store(out + g * kLanes, sub(and_or(shift_right<4 * g>(low), splat(15),
                                        both(shift_right<12 + 2 * g>(high), splat(0x30))),
                                 splat(32))),
     ...);
  }
};

// Ternary codes 0, 1, 2 stand for -1, 0, 1: one scale for all.
struct Ternary : Block256 {
  static constexpr int kGroup = 256, kOffset = 1;
  static constexpr bool kScaled = false;
  QCORE_INLINE static Floats d(const Strip& s) { return load_f16(s.rest); }
};

template <>
struct Decoder<blocks::TQ2_0> : Ternary {
  using Format = blocks::TQ2_0;
  static constexpr int kChunks = 2, kParts = 32;
  template <int part>
  QCORE_INLINE static Ints codes(const Strip& s, int chunk) {
    return two_bits<part / 8 * 2, 0>(s.dword(8 * chunk + part % 8));
  }
};

template <>
struct Decoder<blocks::TQ1_0> : Ternary {
  using Format = blocks::TQ1_0;
  static constexpr int kChunks = 1, kParts = 64;
  template <int part>
  QCORE_INLINE static Ints codes(const Strip& s, int) {
    if constexpr (part < 40) {
      return trits<part / 8>(s.dword(part % 8));
    } else if constexpr (part < 60) {
      return trits<(part - 40) / 4>(s.dword(8 + part % 4));
    } else {
      return trits<part - 60>(s.dword(12));
    }
  }
  // Digit n of bytes that hold floor(256 * 0.d0 d1 d2 d3 d4 in base 3), rounded up: shift n digits
  // to the left, keep the fraction, and read off what is before the point after a product with 3.
  template <int n>
  QCORE_INLINE static Ints trits(Ints a) {
    static_assert(n >= 0 && n < 5);
    constexpr int kPower[] = {1, 3, 9, 27, 81};
    const Ints pairs = splat(0x00ff00ff);
    const Ints power = splat(kPower[n] * 0x10001), three = splat(0x30003);
    const Ints even = both(multiply_pairs(both(a, pairs), power), pairs);
    const Ints odd = both(multiply_pairs(both(shift_right<8>(a), pairs), power), pairs);
    // Results are below 3 * 256, so the bytes that are wanted stand alone.
    const Ints low = shift_right<8>(multiply_pairs(even, three));
    const Ints high = multiply_pairs(odd, three);
    return and_or(high, splat(0x03000300), both(low, pairs));
  }
};
