// How one number becomes 8 bits: the definitions of quantize.h in device code, bit for bit.
#pragma once

#include <type_traits>

#include "ptx/bits8.cuh"
#include "qcore/quantize.h"

namespace qcore::quantize {

// The extremes of some numbers as bits: max(x, 0) and max(-x, 0). Bits of floats without sign are
// ordered as integers, and NaN is above infinity, so that integer maxima lose neither.
struct alignas(8) Extremes {
  int high = 0, minus_low = 0;

  QCORE_DEVICE void add(float x) {
    const int bits = static_cast<int>(ptx::bits_of(x));
    high = larger(high, bits);
    minus_low = larger(minus_low, bits ^ static_cast<int>(0x80000000u));
  }
  QCORE_DEVICE void add(const Extremes& other) {
    high = larger(high, other.high);
    minus_low = larger(minus_low, other.minus_low);
  }
  QCORE_DEVICE float amax() const { return number(larger(high, minus_low)); }
  QCORE_DEVICE static float number(int bits) {
    return ptx::float_from_bits(static_cast<uint32_t>(bits));
  }
  QCORE_DEVICE static int larger(int a, int b) { return a > b ? a : b; }
};

inline constexpr int kInfinity = 0x7f800000;

QCORE_DEVICE bool is_finite(float x) {
  return (ptx::bits_of(x) & 0x7fffffffu) < static_cast<uint32_t>(kInfinity);
}

// To the nearest even integer, of a number in -2^22 .. 2^22: a float of this size has no fraction.
// The integer stands in the low bits, in two's complement.
QCORE_DEVICE uint32_t round_small(float x) {
  return ptx::bits_of(x + 0x1.8p23f);
}
QCORE_DEVICE int round_to_int(float x) {
  return static_cast<int>(round_small(x) - ptx::bits_of(0x1.8p23f));
}

// Divides many numbers by one: IEEE quotients, to the last bit. With the reciprocal in two parts
// the first quotient is within one unit of the last place, and then one step with the exact
// remainder rounds correctly (Markstein). That holds as long as nothing overflows or becomes
// subnormal on the way, hence the range; a quotient too large to matter is bounded, so that its
// remainder is finite.
class Divisor {
 public:
  QCORE_DEVICE explicit Divisor(float by) : by_(by) {
    ordinary_ = by >= 0x1p-60f && by <= 0x1p60f;
    high_ = ptx::divide(1.0f, by);
    low_ = ptx::fma(-by, high_, 1.0f) * high_;
  }
  QCORE_DEVICE void divide(const float (&x)[8], float (&quotient)[8]) const {
    if (ordinary_) {
      QCORE_UNROLL
      for (int j = 0; j < 8; ++j) {
        float q = ptx::fma(x[j], high_, ptx::multiply(x[j], low_));
        q = ptx::minimum(ptx::maximum(q, -kBound), kBound);
        q = ptx::fma(ptx::fma(-q, by_, x[j]), high_, q);
        // Zeros lost their sign.
        constexpr uint32_t kSign = 0x80000000u;
        quotient[j] =
            ptx::float_from_bits((ptx::bits_of(q) & ~kSign) | (ptx::bits_of(x[j]) & kSign));
      }
    } else {
      QCORE_UNROLL
      for (int j = 0; j < 8; ++j) quotient[j] = ptx::divide(x[j], by_);
    }
  }

 private:
  static constexpr float kBound = 0x1p40f;
  float by_, high_, low_;
  bool ordinary_;
};

// What a row is divided by, and the zero point of int8.
struct Scale {
  float scale = 1;
  int32_t zero = 0;
};

// X is ptx::Int8, E4m3 or E5m2.
template <class X>
struct Rule;

template <>
struct Rule<ptx::Int8> {
  QCORE_DEVICE static Scale scale(const Extremes& e, bool symmetric) {
    const float low = -Extremes::number(e.minus_low), high = Extremes::number(e.high);
    const float range = symmetric ? ptx::divide(e.amax(), 127.0f) : ptx::divide(high - low, 255.0f);
    Scale s{range == 0.0f ? 1.0f : range, 0};
    if (!is_finite(e.amax()) || !is_finite(range)) s.scale = ptx::float_from_bits(0x7fc00000u);
    if (!symmetric) s.zero = round_to_int(clamp(-128.0f - ptx::divide(low, s.scale), -128, 127));
    return s;
  }
  QCORE_DEVICE static float clamp(float x, int low, int high) {
    return ptx::minimum(ptx::maximum(x, static_cast<float>(low)), static_cast<float>(high));
  }
  QCORE_DEVICE static ptx::Vec8 convert(const float (&quotient)[8], int32_t zero) {
    ptx::Vec8 bytes;
    QCORE_UNROLL
    for (int w = 0; w < 2; ++w) {
      uint32_t b[4];
      QCORE_UNROLL
      for (int j = 0; j < 4; ++j) {
        b[j] = round_small(clamp(quotient[w * 4 + j], -128 - zero, 127 - zero)) +
               static_cast<uint32_t>(zero);
      }
      bytes.word[w] = ptx::permute_bytes<0x5410>(ptx::permute_bytes<0x0040>(b[0], b[1]),
                                                 ptx::permute_bytes<0x0040>(b[2], b[3]));
    }
    return bytes;
  }
};

template <class X>
struct Rule {
  static constexpr float kMost = std::is_same_v<X, ptx::E4m3> ? 448.0f : 57344.0f;

  QCORE_DEVICE static Scale scale(const Extremes& e, bool) {
    const float scale = ptx::divide(e.amax(), kMost);
    return {scale == 0.0f ? 1.0f : scale, 0};
  }
  QCORE_DEVICE static ptx::Vec8 convert(const float (&quotient)[8], int32_t) {
    ptx::Vec8 bytes;
    QCORE_UNROLL
    for (int w = 0; w < 2; ++w) {
      const float* const q = quotient + w * 4;
      bytes.word[w] = ptx::pack2_fp8<X>(q[0], q[1]) |
                      static_cast<uint32_t>(ptx::pack2_fp8<X>(q[2], q[3])) << 16;
    }
    return bytes;
  }
};

}  // namespace qcore::quantize
