// a * b + c of half and bfloat16 numbers, rounded once to nearest even.
//
// The exact value is first rounded to odd: where it is not representable, to the neighbour with an
// odd significand. With at least two bits more than the final format, the final rounding then sees
// on which side of a midpoint the exact value lies, and gives what rounding it once would give.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "numerics/float16.h"

namespace qcore::simt {

// The exact value is sum + error; sum is its rounding to nearest. Finite and not zero if error is
// not zero.
template <class Float, class Bits>
Float round_to_odd(Float sum, double error) {
  const Bits bits = std::bit_cast<Bits>(sum);
  if (error == 0 || bits % 2 != 0) return sum;
  return std::bit_cast<Float>((error > 0) == (sum > 0) ? bits + 1 : bits - 1);
}

// Half: a product has 22 bits and, as the sum, no bit below 2^-48 and none above 2^33, so that
// float holds the product exactly and the error of the sum too.
inline uint32_t fma_half(uint32_t a, uint32_t b, uint32_t c) {
  const float product =
      f32_from_f16(static_cast<uint16_t>(a)) * f32_from_f16(static_cast<uint16_t>(b));
  const float addend = f32_from_f16(static_cast<uint16_t>(c));
  float sum = product + addend;
  if (!std::isfinite(sum)) return std::isnan(sum) ? 0x7fffu : f16_from_f32(sum);
  const float part = sum - product;
  sum = round_to_odd<float, uint32_t>(sum, (product - (sum - part)) + (addend - part));
  return f16_from_f32(sum);
}

// Bfloat16 has the exponents of float, whose squares only double holds; from there to float rounds
// to odd once more.
inline uint32_t fma_bfloat(uint32_t a, uint32_t b, uint32_t c) {
  const double product = static_cast<double>(f32_from_bf16(static_cast<uint16_t>(a))) *
                         f32_from_bf16(static_cast<uint16_t>(b));
  const double addend = f32_from_bf16(static_cast<uint16_t>(c));
  double sum = product + addend;
  if (!std::isfinite(sum))
    return std::isnan(sum) ? 0x7fffu : bf16_from_f32(static_cast<float>(sum));
  const double part = sum - product;
  sum = round_to_odd<double, uint64_t>(sum, (product - (sum - part)) + (addend - part));
  // A float that overflowed steps back to the largest one, which is odd.
  const float narrow = static_cast<float>(sum);
  const double error = std::isinf(narrow) ? -sum : sum - static_cast<double>(narrow);
  if (narrow == 0) return bf16_from_f32(narrow);  // far below half of the smallest number
  return bf16_from_f32(round_to_odd<float, uint32_t>(narrow, error));
}

}  // namespace qcore::simt
