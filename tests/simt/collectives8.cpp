// What a warp executes together on 8-bit elements, and the meeting point of a grid's blocks.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "ptx/bits8.cuh"
#include "ptx/fragments.h"
#include "simt/thread.h"

namespace qcore::simt {
namespace {

using fragments::Element;

void shuffle_xor(Warp& warp) {
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    const Operands& mine = warp.operands[lane];
    const uint32_t other = lane ^ mine.number;
    if (other >= kWarpSize) fault("shuffle_xor: no lane " + std::to_string(other), warp.where);
    std::memcpy(mine.result, warp.operands[other].first, sizeof(int));
  }
}

// Calls body(value of the matrix, byte) for every byte of an operand.
template <class Number, class Convert>
void gather(const Warp& warp, const void* Operands::* source, int elements, int columns,
            Element (*element)(int, int), Convert convert, Number* matrix) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    uint8_t bytes[16];
    std::memcpy(bytes, warp.operands[lane].*source, static_cast<size_t>(elements));
    for (int i = 0; i < elements; ++i) {
      const Element e = element(lane, i);
      matrix[e.row * columns + e.column] = convert(bytes[i]);
    }
  }
}

// The sum of some finite terms, each cut to a multiple of one unit.
double coarse_sum(const double* terms, int count) {
  double most = 0;
  for (int i = 0; i < count; ++i) most = std::max(most, std::fabs(terms[i]));
  if (most == 0) return 0;
  const int unit = std::ilogb(most) - 13;
  double sum = 0;
  for (int i = 0; i < count; ++i) sum += std::trunc(std::ldexp(terms[i], -unit));
  return std::ldexp(sum, unit);
}

// d += a * b, by multiply(sums of one row, value of a, row of b).
template <class Number, class Sum, class Result, class ConvertA, class ConvertB>
void mma(Warp& warp, ConvertA convert_a, ConvertB convert_b) {
  // Static: the last lane to arrive executes this, each time on another stack.
  static Number a[16 * 32], b[32 * 8];
  static Sum d[16 * 8];
  gather(warp, &Operands::first, 16, 32, fragments::a8_element, convert_a, a);
  gather(warp, &Operands::second, 8, 8, fragments::b8_element, convert_b, b);
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const Result* const from = static_cast<const Result*>(warp.operands[lane].result);
    for (int i = 0; i < 4; ++i) {
      const Element e = fragments::c_element(lane, i);
      d[e.row * 8 + e.column] = static_cast<Sum>(from[i]);
    }
  }
  for (int m = 0; m < 16; ++m) {
    Sum sum[8];
    for (int n = 0; n < 8; ++n) sum[n] = d[8 * m + n];
    for (int k = 0; k < 32; ++k) {
      const Number factor = a[32 * m + k];
      for (int n = 0; n < 8; ++n) sum[n] += static_cast<Sum>(factor * b[8 * k + n]);
    }
    if constexpr (std::is_same_v<Result, float>) {
      for (int n = 0; CoarseFp8::active && n < 8; ++n) {
        double terms[33] = {d[8 * m + n]};
        for (int k = 0; k < 32; ++k) terms[k + 1] = a[32 * m + k] * b[8 * k + n];
        if (std::isfinite(sum[n])) sum[n] = coarse_sum(terms, 33);
      }
    }
    for (int n = 0; n < 8; ++n) d[8 * m + n] = sum[n];
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    Result* const to = static_cast<Result*>(warp.operands[lane].result);
    for (int i = 0; i < 4; ++i) {
      const Element e = fragments::c_element(lane, i);
      to[i] = static_cast<Result>(d[e.row * 8 + e.column]);
    }
  }
}

// Sums wrap, as those of the hardware without .satfinite.
void mma_int8(Warp& warp) {
  const auto number = [](uint8_t bits) { return static_cast<int32_t>(static_cast<int8_t>(bits)); };
  mma<int32_t, uint32_t, int32_t>(warp, number, number);
}

// Products and their sum are exact in double, and rounded once to float with d added. Hardware
// aligns the 32 products and d to the largest exponent among them and truncates what is more than
// about 14 bits below it, so results of a GPU differ by about 2^-14 of the largest term per
// instruction; while a CoarseFp8 lives these do too.
template <int kA, int kB>
void mma_fp8(Warp& warp) {
  const auto converter = [](int format) {
    const auto& values = float8_values(format == 0 ? kE4m3 : kE5m2);
    return [&values](uint8_t bits) { return values[bits]; };
  };
  mma<double, double, float>(warp, converter(kA), converter(kB));
}

}  // namespace

const Collective kShuffleXorInt{"shuffle_xor", shuffle_xor};
const Collective kMmaInt8{"mma_16x8x32<Int8>", mma_int8};
const Collective kMmaFp8[2][2] = {
    {{"mma_16x8x32<E4m3, E4m3>", mma_fp8<0, 0>}, {"mma_16x8x32<E4m3, E5m2>", mma_fp8<0, 1>}},
    {{"mma_16x8x32<E5m2, E4m3>", mma_fp8<1, 0>}, {"mma_16x8x32<E5m2, E5m2>", mma_fp8<1, 1>}},
};

}  // namespace qcore::simt
