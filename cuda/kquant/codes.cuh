// Codes of blocks to exact 16-bit numbers, two to a register, as w4a16/dequant.cuh does it for
// codes of 4 and 8 bits: a number with a fixed exponent holds an integer in its low mantissa bits,
// OR-ing a code into the bits of 1024 (fp16, 10 bits) or 128 (bf16, 7 bits) gives 1024 + code, and
// one packed instruction takes the offset and the code that means 0 away. The code may stand
// higher, where it counts 2^p times as much, and the instruction multiplies by 2^-p. High bits come
// from a plane of their own and are shifted next to the low ones. Nothing is rounded.
#pragma once

#include "kquant/layout.h"
#include "numerics/float16.h"
#include "ptx/base.cuh"

namespace qcore::kquant {

using ptx::Bfloat;
using ptx::Half;

constexpr uint32_t twice(uint32_t half) {
  return half | half << 16;
}

template <class T>
struct Number;
template <>
struct Number<Half> {
  static constexpr int kMantissa = 10;
  static constexpr uint32_t bits(float value) { return f16_from_f32(value); }
  // a * 2^-p + addend
  QCORE_DEVICE static uint32_t scale_add(uint32_t a, int p, float addend) {
    if (p == 0) return ptx::add2_half(a, twice(bits(addend)));
    return ptx::fma2<Half>(a, twice(bits(1.0f / static_cast<float>(1 << p))), twice(bits(addend)));
  }
};
template <>
struct Number<Bfloat> {
  static constexpr int kMantissa = 7;
  static constexpr uint32_t bits(float value) { return bf16_from_f32(value); }
  QCORE_DEVICE static uint32_t scale_add(uint32_t a, int p, float addend) {
    return ptx::fma2<Bfloat>(a, twice(bits(1.0f / static_cast<float>(1 << p))),
                             twice(bits(addend)));
  }
};

// The fragment of a tile at one step from the lane's words of a span, `low` and `high`. `table`
// holds the low bytes of 16 values, then their high bytes. Tile and step are constants where this
// is inlined.
template <class T, class F>
struct BlockCodes {
  QCORE_DEVICE static void dequantize(const uint32_t* low, const uint32_t* high, int tile, int step,
                                      const uint32_t (&table)[8], uint32_t (&a)[4]) {
    if constexpr (F::kTable) {
      look_up(low[tile * kSpanSteps + step], table, a);
    } else if constexpr (F::kLowBits == 8) {
      QCORE_UNROLL
      for (int j = 0; j < 4; ++j) {
        const uint32_t word = low[bits_of(8, false, tile, step, 2 * j).word];
        a[j] = j % 2 ? bytes<1>(word, T{}) : bytes<0>(word, T{});
      }
    } else {
      QCORE_UNROLL
      for (int j = 0; j < 4; ++j) a[j] = bits(low, high, tile, step, j);
    }
  }

 private:
  static constexpr int kLow = F::kLowBits, kHigh = F::kHighBits;
  static constexpr uint32_t mask(int count, int position) {
    return twice(((1u << count) - 1) << position);
  }

  QCORE_DEVICE static uint32_t bits(const uint32_t* low, const uint32_t* high, int tile, int step,
                                    int j) {
    using N = Number<T>;
    constexpr int kMagic = 1 << N::kMantissa;
    const Bits at = bits_of(kLow, false, tile, step, 2 * j);
    const int position = at.shift % 8 + kLow + kHigh <= N::kMantissa ? at.shift % 8 : 0;
    uint32_t code = (low[at.word] >> (at.shift - position) & mask(kLow, position)) |
                    twice(N::bits(static_cast<float>(kMagic)));
    if constexpr (kHigh > 0) {
      const Bits above = bits_of(kHigh, false, tile, step, 2 * j);
      const int right = above.shift - position - kLow;
      const uint32_t word = high[above.word];
      code |= (right >= 0 ? word >> (right & 31) : word << (-right & 31)) &
              mask(kHigh, position + kLow);
    }
    const float offset = static_cast<float>(kMagic >> position) + static_cast<float>(F::kZero);
    return N::scale_add(code, position, -offset);
  }

  // Bytes kFirst and kFirst + 2 of a word.
  template <int kFirst>
  QCORE_DEVICE static uint32_t bytes(uint32_t word, Half) {
    return ptx::add2_half(ptx::permute_bytes<0x4240 + 0x0101 * kFirst>(word, 0x64646464u),
                          twice(Number<Half>::bits(-1024.0f - F::kZero)));
  }
  // 8 bits do not fit behind the leading one of a bf16, so these pass through fp32.
  template <int kFirst>
  QCORE_DEVICE static uint32_t bytes(uint32_t word, Bfloat) {
    constexpr uint32_t kMagic = 0x4b000000u;  // 2^23
    constexpr float kOffset = 0x1p23f + F::kZero;
    return ptx::pack2<Bfloat>(
        ptx::float_from_bits(ptx::permute_bytes<0x7650 + kFirst>(word, kMagic)) - kOffset,
        ptx::float_from_bits(ptx::permute_bytes<0x7652 + kFirst>(word, kMagic)) - kOffset);
  }

  // A permutation of bytes finds four nibbles at once among the bytes of two words, so the 16
  // bytes of a table take two, and a third chooses between them by the nibbles' top bits.
  QCORE_DEVICE static void look_up(uint32_t word, const uint32_t (&table)[8], uint32_t (&a)[4]) {
    QCORE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const uint32_t nibbles = word >> (16 * half);
      const uint32_t index = nibbles & 0x7777u;
      const uint32_t which = ptx::and_or<0x4444u, 0x3210u>(nibbles >> 1);
      const auto byte_of_value = [&](const uint32_t* of) {
        return ptx::permute_bytes(ptx::permute_bytes(of[0], of[1], index),
                                  ptx::permute_bytes(of[2], of[3], index), which);
      };
      const uint32_t low = byte_of_value(table), high = byte_of_value(table + 4);
      a[2 * half] = ptx::permute_bytes<0x5140>(low, high);
      a[2 * half + 1] = ptx::permute_bytes<0x7362>(low, high);
    }
  }
};

}  // namespace qcore::kquant
