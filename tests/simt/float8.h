// The 8-bit floats of OCP by their definition: a table of all values, and a search in it. Slow, and
// written apart from the conversions of the kernels, so that these can be compared with it.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

namespace qcore::simt {

struct Float8Format {
  int mantissa_bits, bias;
  int largest;    // code of the largest finite number
  bool infinity;  // largest + 1 is infinity, codes above it are NaN
};
inline constexpr Float8Format kE4m3{3, 7, 0x7e, false}, kE5m2{2, 15, 0x7b, true};

inline double float8_value(const Float8Format& f, int code) {
  const int magnitude = code & 0x7f, one = 1 << f.mantissa_bits;
  const double sign = (code & 0x80) != 0 ? -1.0 : 1.0;
  if (magnitude > f.largest) {
    return f.infinity && magnitude == f.largest + 1 ? sign * std::numeric_limits<double>::infinity()
                                                    : std::numeric_limits<double>::quiet_NaN();
  }
  const int exponent = magnitude / one, mantissa = magnitude % one;
  return sign * (exponent == 0 ? std::ldexp(mantissa, 1 - f.bias - f.mantissa_bits)
                               : std::ldexp(one + mantissa, exponent - f.bias - f.mantissa_bits));
}

// All 256 of them.
inline const std::array<double, 256>& float8_values(const Float8Format& f) {
  const auto table = [](const Float8Format& format) {
    std::array<double, 256> values{};
    for (int i = 0; i < 256; ++i) values[static_cast<size_t>(i)] = float8_value(format, i);
    return values;
  };
  static const auto e4m3 = table(kE4m3), e5m2 = table(kE5m2);
  return f.infinity ? e5m2 : e4m3;
}

// The nearest finite number, of two the one with the even code; NaN is 0x7f.
inline int float8_nearest(const Float8Format& f, double value) {
  if (std::isnan(value)) return 0x7f;
  const auto& values = float8_values(f);
  const int sign = std::signbit(value) ? 0x80 : 0;
  const double magnitude = std::abs(value);
  int low = 0, high = f.largest;
  while (low < high) {  // the last one that is not above
    const int middle = (low + high + 1) / 2;
    (values[static_cast<size_t>(middle)] <= magnitude ? low : high) =
        values[static_cast<size_t>(middle)] <= magnitude ? middle : middle - 1;
  }
  if (low < f.largest) {
    const double down = magnitude - values[static_cast<size_t>(low)];
    const double up = values[static_cast<size_t>(low + 1)] - magnitude;
    if (up < down || (up == down && low % 2 != 0)) ++low;
  }
  return sign | low;
}

}  // namespace qcore::simt
