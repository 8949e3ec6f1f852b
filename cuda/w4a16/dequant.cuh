// Codes to the exact integers code - zero, as two 16-bit numbers per register.
//
// A number with a fixed exponent holds an integer in its low mantissa bits: OR-ing the code into
// the bits of 1024 (fp16), 128 (bf16) or 2^23 (fp32) gives 1024 + code and so on, exactly, and one
// packed add takes the offset and the zero point away. No rounding happens: code - zero has at most
// 8 significant bits plus a sign. Scales are not applied here but to sums over a group.
//
// Codes of 8 bits may be floats instead: see FloatCodes.
#pragma once

#include "ptx/base.cuh"
#include "qcore/formats.h"

namespace qcore::dequant {

using ptx::Bfloat;
using ptx::Half;

// What is added to the codes of one row: minus (offset + zero), both halves alike.
struct Offsets {
  uint32_t row0, row8;
};

template <class T, int kBits>
struct Codes;

// The registers of the two rows a lane holds alternate: 0 and 2 are row r, 1 and 3 are row r + 8,
// so in fp16 the odd registers may take the code from bits 4 .. 7, where it counts sixteenfold.
template <>
struct Codes<Half, 4> {
  static constexpr int kWords = 1;

  QCORE_DEVICE static Offsets offsets(uint32_t zero0, uint32_t zero8) {
    // -(1024 + zero), and -(64 + zero), whose last mantissa bit counts 1/16.
    return {0xe400e400u + zero0 * 0x00010001u, 0xd400d400u + zero8 * 0x00100010u};
  }
  QCORE_DEVICE static void dequantize(const uint32_t* word, const Offsets& minus,
                                      uint32_t (&a)[4]) {
    constexpr uint32_t kSixteenth = 0x2c002c00u;
    const uint32_t low = word[0], high = word[0] >> 8;
    a[0] = ptx::add2_half(ptx::and_or<0x000f000fu, 0x64006400u>(low), minus.row0);
    a[1] = ptx::fma2<Half>(ptx::and_or<0x00f000f0u, 0x64006400u>(low), kSixteenth, minus.row8);
    a[2] = ptx::add2_half(ptx::and_or<0x000f000fu, 0x64006400u>(high), minus.row0);
    a[3] = ptx::fma2<Half>(ptx::and_or<0x00f000f0u, 0x64006400u>(high), kSixteenth, minus.row8);
  }
};

template <>
struct Codes<Bfloat, 4> {
  static constexpr int kWords = 1;

  QCORE_DEVICE static Offsets offsets(uint32_t zero0, uint32_t zero8) {
    return {0xc300c300u + zero0 * 0x00010001u, 0xc300c300u + zero8 * 0x00010001u};  // -(128 + zero)
  }
  QCORE_DEVICE static void dequantize(const uint32_t* word, const Offsets& minus,
                                      uint32_t (&a)[4]) {
    constexpr uint32_t kOne =
        0x3f803f80u;  // a packed bf16 add exists from sm_90 on, the fma always
    QCORE_UNROLL
    for (int r = 0; r < 4; ++r) {
      a[r] = ptx::fma2<Bfloat>(ptx::and_or<0x000f000fu, 0x43004300u>(word[0] >> (4 * r)), kOne,
                               r % 2 ? minus.row8 : minus.row0);
    }
  }
};

// Bytes 2 j and 2 j + 1 of the step are register j.
template <>
struct Codes<Half, 8> {
  static constexpr int kWords = 2;

  QCORE_DEVICE static Offsets offsets(uint32_t zero0, uint32_t zero8) {
    return {0xe400e400u + zero0 * 0x00010001u, 0xe400e400u + zero8 * 0x00010001u};
  }
  QCORE_DEVICE static void dequantize(const uint32_t* word, const Offsets& minus,
                                      uint32_t (&a)[4]) {
    QCORE_UNROLL
    for (int w = 0; w < 2; ++w) {
      a[2 * w] = ptx::add2_half(ptx::permute_bytes<0x4140>(word[w], 0x64646464u), minus.row0);
      a[2 * w + 1] = ptx::add2_half(ptx::permute_bytes<0x4342>(word[w], 0x64646464u), minus.row8);
    }
  }
};

// 8 bits do not fit behind the leading one of a bf16, so these pass through fp32.
template <>
struct Codes<Bfloat, 8> {
  static constexpr int kWords = 2;

  QCORE_DEVICE static Offsets offsets(uint32_t zero0, uint32_t zero8) {
    return {0xcb000000u + zero0, 0xcb000000u + zero8};  // -(2^23 + zero) in fp32
  }
  QCORE_DEVICE static void dequantize(const uint32_t* word, const Offsets& minus,
                                      uint32_t (&a)[4]) {
    constexpr uint32_t kMagic = 0x4b000000u;
    const float row0 = ptx::float_from_bits(minus.row0), row8 = ptx::float_from_bits(minus.row8);
    QCORE_UNROLL
    for (int w = 0; w < 2; ++w) {
      const float b0 = ptx::float_from_bits(ptx::permute_bytes<0x7650>(word[w], kMagic));
      const float b1 = ptx::float_from_bits(ptx::permute_bytes<0x7651>(word[w], kMagic));
      const float b2 = ptx::float_from_bits(ptx::permute_bytes<0x7652>(word[w], kMagic));
      const float b3 = ptx::float_from_bits(ptx::permute_bytes<0x7653>(word[w], kMagic));
      a[2 * w] = ptx::pack2<Bfloat>(b0 + row0, b1 + row0);
      a[2 * w + 1] = ptx::pack2<Bfloat>(b2 + row8, b3 + row8);
    }
  }
};

// How e4m3 and e5m2 become the 16-bit numbers of a kernel: exponent and mantissa are shifted to
// where T has its own, and one multiplication by a power of two makes up for the exponent's other
// bias. Exact, for subnormal codes too. Codes that are infinite or NaN count as what comes after
// the largest number; only e5m2 in fp16, whose bits are the upper half of T's, keeps them.
struct FloatCodes {
  uint32_t mask = 0;  // of what is shifted, in both halves; 0: the codes are integers
  uint32_t shift = 0;
  uint32_t factor = 0;  // twice in T

  constexpr FloatCodes() = default;
  constexpr FloatCodes(Elements elements, DType dtype) {
    if (!is_float(elements)) return;
    const bool half = dtype == DType::f16, e4m3 = elements == Elements::e4m3;
    // A code comes in the upper half of 16 bits. 5 or 8 bits of exponent instead of 4 or 5.
    shift = (half ? 5 : 8) - (e4m3 ? 4 : 5);
    mask = (0x7f00u >> shift) * 0x00010001u;
    // 2^(15 - 7), 2^0; 2^(127 - 7), 2^(127 - 15).
    factor = half ? (e4m3 ? 0x5c005c00u : 0x3c003c00u) : (e4m3 ? 0x7b807b80u : 0x77807780u);
  }
  QCORE_DEVICE bool any() const { return mask != 0; }

  // Two words as Codes<T, 8> takes them.
  template <class T>
  QCORE_DEVICE void dequantize(const uint32_t* word, uint32_t (&a)[4]) const {
    constexpr uint32_t kMinusZero = 0x80008000u;  // the signs alone
    QCORE_UNROLL
    for (int w = 0; w < 2; ++w) {
      const uint32_t pair[2] = {ptx::permute_bytes<0x1404>(word[w], 0),
                                ptx::permute_bytes<0x3424>(word[w], 0)};
      QCORE_UNROLL
      for (int i = 0; i < 2; ++i) {
        const uint32_t bits = (pair[i] >> shift & mask) | (pair[i] & kMinusZero);
        a[2 * w + i] = ptx::fma2<T>(bits, factor, kMinusZero);
      }
    }
  }
};

}  // namespace qcore::dequant
