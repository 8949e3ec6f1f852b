// Every 16-bit pattern is converted, and compared with arithmetic on its sign, exponent and
// mantissa.
#include <gtest/gtest.h>

#include <cmath>

#include "cases.h"
#include "numerics/float16.h"

namespace qcore {
namespace {

double half_value(uint16_t h, int mantissa_bits, int bias) {
  const int exponent_bits = 15 - mantissa_bits;
  const int exponent = (h >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = h & ((1 << mantissa_bits) - 1);
  const double sign = h & 0x8000 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

template <class To, class From>
void check_all(int mantissa_bits, int bias, From from, To to) {
  for (uint32_t i = 0; i < 0x10000; ++i) {
    const uint16_t h = static_cast<uint16_t>(i);
    const double expected = half_value(h, mantissa_bits, bias);
    const float got = from(h);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(got)) << i;
      EXPECT_TRUE(std::isnan(from(to(got)))) << i;
      continue;
    }
    ASSERT_EQ(got, expected) << i;
    ASSERT_EQ(to(got), h) << i;
    const uint16_t next = static_cast<uint16_t>(i + 1);
    const double above = half_value(next, mantissa_bits, bias);
    if ((next & 0x7fff) == 0 || !std::isfinite(above) || !std::isfinite(expected)) continue;
    // The midpoint of two neighbours is exact in fp32 and goes to the even one; a hair off it does
    // not.
    const float middle = static_cast<float>((expected + above) / 2);
    ASSERT_EQ(to(middle), i & 1 ? next : h) << i;
    ASSERT_EQ(to(std::nextafterf(middle, static_cast<float>(expected))), h) << i;
    ASSERT_EQ(to(std::nextafterf(middle, static_cast<float>(above))), next) << i;
  }
}

TEST(Float16, HalfIsExact) {
  check_all(10, 15, f32_from_f16, f16_from_f32);
}
TEST(Float16, Bfloat16IsExact) {
  check_all(7, 127, f32_from_bf16, bf16_from_f32);
}

TEST(Float16, SubnormalHalvesDoNotDependOnTheFlushMode) {
  for (uint32_t i = 0; i < 0x400; ++i) {
    const testing::FlushSubnormals flush;
    const float value = f32_from_f16(static_cast<uint16_t>(i));
    ASSERT_EQ(value, static_cast<float>(i) / 16777216.0f);
    ASSERT_EQ(f16_from_f32(value), i);
  }
}

TEST(Float16, LargeValuesBecomeInfinity) {
  EXPECT_EQ(f16_from_f32(65519.0f), 0x7bff);
  EXPECT_EQ(f16_from_f32(65520.0f), 0x7c00);
  EXPECT_EQ(f16_from_f32(-1e30f), 0xfc00);
  EXPECT_EQ(bf16_from_f32(3.4e38f), 0x7f80);
}

}  // namespace
}  // namespace qcore
