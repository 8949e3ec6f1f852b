#include <gtest/gtest.h>

#include "canonical_cases.h"
#include "thread_pool.h"

namespace qcore {
namespace {

using namespace testing;

class EveryRow : public ::testing::TestWithParam<const Row<Fp8>*> {
 protected:
  const Row<Fp8>& row() const { return *GetParam(); }

  Output run(const Fp8Data& d, const Parallel& parallel = {}) {
    Output y(d.shape.dtype, d.shape.m * d.shape.n);
    const Status status = row().run(d.args(y.data()), parallel);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(y.guards_hold()) << describe(d.shape);
    return y;
  }

  void compare(const Fp8Data& d) {
    const Output y = run(d);
    // A lane adds K / 8 products at most, then blocks and lanes.
    const double step = (12 + static_cast<double>(d.shape.k) / 8) * 0x1p-24;
    for (int64_t i = 0; i < d.shape.m * d.shape.n; ++i) {
      const Exact exact = exact_fp8(d, i / d.shape.n, i % d.shape.n);
      if (d.shape.dtype == DType::f16 && std::abs(exact.value) > 65000) continue;  // may overflow
      const double bound =
          step * exact.magnitude + 1.01 * half_step(d.shape.dtype, exact.value) + 1e-38;
      ASSERT_LE(std::abs(y.get(i) - exact.value), bound)  // false for NaN
          << describe(d.shape) << " at " << i << ": expected " << exact.value << ", got "
          << y.get(i);
    }
  }
};

TEST_P(EveryRow, IsCloseToTheExactProduct) {
  Rng rng(91);
  for (int i = 0; i < 200 && !HasFailure(); ++i) compare(random_data(random_fp8_case(rng), rng));
}

TEST_P(EveryRow, EveryHeight) {
  Rng rng(92);
  for (int64_t m = 1; m <= 40 && !HasFailure(); ++m) {
    compare(random_data(Fp8Case{.m = m, .n = 13, .k = 150}, rng));
    compare(random_data(Fp8Case{.m = m,
                                .n = 13,
                                .k = 150,
                                .x_scales = Granularity::block,
                                .w_scales = Granularity::block},
                        rng));
  }
}

TEST_P(EveryRow, LongK) {
  Rng rng(93);
  for (const Granularity scales : {Granularity::row, Granularity::block}) {
    compare(random_data(
        Fp8Case{.m = 3, .n = 150, .k = 16384, .x_scales = scales, .w_scales = scales}, rng));
  }
}

TEST_P(EveryRow, DependsNeitherOnThreadsNorOnTheBatchNorOnTheFlushMode) {
  ThreadPool two(2), three(3);
  Rng rng(94);
  for (int i = 0; i < 12; ++i) {
    Fp8Case c = random_fp8_case(rng);
    c.n = uniform(rng, 100, 300);
    if (c.x_scales == Granularity::tensor) c.x_scales = Granularity::row;
    const Fp8Data d = random_data(c, rng);
    const Output one = run(d);
    EXPECT_TRUE(one == run(d, two.parallel())) << describe(c);
    EXPECT_TRUE(one == run(d, three.parallel())) << describe(c);
    {
      const FlushSubnormals flush;
      EXPECT_TRUE(one == run(d)) << describe(c);
    }
    const int64_t per_row = c.x_scales == Granularity::block ? d.blocks() : 1;
    for (const int64_t taken : {1, 3, 20}) {
      if (taken > c.m) break;
      Fp8Data part = d;
      const int64_t first = uniform(rng, 0, c.m - taken);
      part.shape.m = taken;
      part.x.erase(part.x.begin(), part.x.begin() + first * d.stride());
      part.x_scale.erase(part.x_scale.begin(), part.x_scale.begin() + first * per_row);
      EXPECT_TRUE(one.holds(first * c.n, run(part), taken * c.n)) << describe(c);
    }
  }
}

TEST_P(EveryRow, WhatIsNotFiniteStaysInItsRowAndColumn) {
  Rng rng(95);
  for (const Float8 type : {Float8::e4m3, Float8::e5m2}) {
    for (const Granularity scales : {Granularity::row, Granularity::block}) {
      Fp8Data d = random_data(Fp8Case{.m = 9,
                                      .n = 20,
                                      .k = 300,
                                      .x_type = type,
                                      .w_type = type,
                                      .x_scales = scales,
                                      .w_scales = scales},
                              rng);
      d.x[300 * 4 + 299] = 0x7f;
      d.weight[300 * 11 + 7] = 0xff;
      const Output y = run(d);
      for (int64_t i = 0; i < 9 * 20; ++i) {
        ASSERT_EQ(std::isnan(y.get(i)), i / 20 == 4 || i % 20 == 11) << name(type) << " at " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Fp8, EveryRow, ::testing::ValuesIn(runnable_rows<Fp8>()),
                         [](const auto& row) { return std::string(row.param->name); });

TEST(Float8, ConversionsAreInverse) {
  for (const Float8 type : {Float8::e4m3, Float8::e5m2}) {
    for (int code = 0; code < 256; ++code) {
      const float value = f32_from_float8(type, static_cast<uint8_t>(code));
      if (std::isnan(value)) {
        EXPECT_EQ(float8_from_f32(type, value) & 0x7f, 0x7f);
      } else {
        EXPECT_EQ(float8_from_f32(type, value), code) << name(type);
      }
    }
  }
  EXPECT_EQ(f32_from_e4m3(0x7e), 448.0f);
  EXPECT_EQ(f32_from_e4m3(0x01), 0x1p-9f);
  EXPECT_EQ(f32_from_e5m2(0x7b), 57344.0f);
  EXPECT_EQ(f32_from_e5m2(0x01), 0x1p-16f);
}

TEST(Fp8, BadArgumentsAreNamed) {
  Rng rng(96);
  const Fp8Data d = random_data(Fp8Case{.m = 2, .n = 3, .k = 5}, rng);
  Output y(DType::f32, 6);
  const auto named = [&](auto change) {
    Fp8Args args = d.args(y.data());
    change(args);
    const Status status = fp8_gemm(args, {});
    EXPECT_EQ(status.code(), StatusCode::invalid_argument) << status.message();
    return status.message().substr(0, status.message().find(':'));
  };
  EXPECT_EQ(named([](Fp8Args& a) { a.m = -1; }), "m");
  EXPECT_EQ(named([](Fp8Args& a) { a.n = -1; }), "n");
  EXPECT_EQ(named([](Fp8Args& a) { a.k = 0; }), "k");
  EXPECT_EQ(named([](Fp8Args& a) { a.x = nullptr; }), "x");
  EXPECT_EQ(named([](Fp8Args& a) { a.weight = nullptr; }), "weight");
  EXPECT_EQ(named([](Fp8Args& a) { a.x_scale = nullptr; }), "x_scale");
  EXPECT_EQ(named([](Fp8Args& a) { a.w_scale = nullptr; }), "w_scale");
  EXPECT_EQ(named([](Fp8Args& a) { a.y = nullptr; }), "y");
  EXPECT_EQ(named([](Fp8Args& a) { a.x_stride = -1; }), "x_stride");
  EXPECT_EQ(named([](Fp8Args& a) { a.x_scales = Granularity::block; }), "x_scales");
}

}  // namespace
}  // namespace qcore
