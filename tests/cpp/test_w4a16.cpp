#include <gtest/gtest.h>

#include <cmath>

#include "cases.h"
#include "output.h"
#include "thread_pool.h"

namespace qcore {
namespace {

using namespace testing;

class EveryRow : public ::testing::TestWithParam<const Row<W4A16>*> {
 protected:
  const Row<W4A16>& row() const { return *GetParam(); }

  Output run(const GemmData& data, const PackedScaled& packed, const Parallel& parallel = {}) {
    Output y(data.shape.dtype, data.shape.m * data.shape.weight.n);
    const Status status = row().run(data.args(packed, y.data()), parallel);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(y.guards_hold()) << describe(data.shape);
    return y;
  }

  void compare(const GemmData& data) {
    const Packed packed = pack(row(), data.weight);
    ASSERT_TRUE(packed.status.ok()) << packed.status.message();
    const Output y = run(data, packed.view);
    const std::vector<Exact> exact = exact_gemm(data);
    for (size_t i = 0; i < exact.size(); ++i) {
      const double got = y.get(static_cast<int64_t>(i));
      const double bound =
          8 * 0x1p-23 * exact[i].magnitude + 1.01 * half_step(data.shape.dtype, exact[i].value);
      ASSERT_LE(std::abs(got - exact[i].value), bound)  // false for NaN
          << describe(data.shape) << " at " << i << ": expected " << exact[i].value << ", got "
          << got;
    }
  }
};

TEST_P(EveryRow, IsCloseToTheExactProduct) {
  Rng rng(11);
  for (int i = 0; i < 250; ++i) compare(random_data(random_case(rng), rng));
}

TEST_P(EveryRow, FloatCodes) {
  Rng rng(21);
  for (int i = 0; i < 80; ++i) {
    Case c = random_case(rng);
    c.weight.has_zeros = false;
    c.weight.elements = pick(rng, {Elements::e4m3, Elements::e5m2});
    c.dtype = pick(rng, {DType::f32, DType::bf16});  // a float16 would overflow
    compare(random_data(c, rng));
  }
}

TEST_P(EveryRow, EveryHeightOfTile) {
  Rng rng(12);
  for (const int bits : {2, 3, 4, 8}) {
    for (int64_t m = 1; m <= 34; ++m) {
      compare(random_data({.weight = {.n = 49,
                                      .k = 200,
                                      .group_size = 72,
                                      .elements = unsigned_of(bits).value(),
                                      .has_zeros = m % 2 == 0},
                           .m = m},
                          rng));
    }
  }
}

TEST_P(EveryRow, DoesNotDependOnThreads) {
  ThreadPool two(2), three(3);
  Rng rng(13);
  for (int i = 0; i < 60; ++i) {
    Case c = random_case(rng);
    c.weight.n = uniform(rng, 100, 700);
    c.m = std::min<int64_t>(c.m, 140);
    const GemmData data = random_data(c, rng);
    const Packed packed = pack(row(), data.weight);
    const Output one = run(data, packed.view);
    EXPECT_TRUE(one == run(data, packed.view, two.parallel())) << describe(c);
    EXPECT_TRUE(one == run(data, packed.view, three.parallel())) << describe(c);
  }
}

TEST_P(EveryRow, DoesNotDependOnTheBatch) {
  Rng rng(14);
  for (int i = 0; i < 40; ++i) {
    const GemmData data = random_data(random_case(rng), rng);
    const Packed packed = pack(row(), data.weight);
    const Output batch = run(data, packed.view);
    for (int64_t taken = 1; taken <= 12; ++taken) {
      if (taken > data.shape.m) break;
      GemmData part = data;
      const int64_t first = uniform(rng, 0, data.shape.m - taken);
      part.shape.m = taken;
      part.x.bytes.erase(part.x.bytes.begin(),
                         part.x.bytes.begin() + first * data.x_stride * size_of(data.shape.dtype));
      const Output alone = run(part, packed.view);
      EXPECT_TRUE(batch.holds(first * data.shape.weight.n, alone, taken * data.shape.weight.n))
          << describe(data.shape) << " rows " << first << " + " << taken;
    }
  }
}

// Codes next to a zero point at the edge of the range: a correction by zero * sum(x) afterwards
// would cancel two large sums here.
TEST_P(EveryRow, FullAccuracyNextToTheZeroPoint) {
  Rng rng(21);
  for (const int bits : {2, 3, 4, 8}) {
    const int top = (1 << bits) - 1;
    for (const bool high : {false, true}) {
      for (const int64_t m : {1, 2, 5, 40}) {
        for (const int64_t k : {1, 300}) {
          GemmData data = random_data({.weight = {.n = 35,
                                                  .k = k,
                                                  .group_size = std::min<int64_t>(k, 96),
                                                  .elements = unsigned_of(bits).value(),
                                                  .has_zeros = true},
                                       .m = m},
                                      rng);
          for (uint8_t& zero : data.weight.zeros) zero = static_cast<uint8_t>(high ? top : 0);
          for (uint8_t& code : data.weight.codes) {
            const int distance = static_cast<int>(uniform(rng, 0, 2));
            code = static_cast<uint8_t>(high ? top - distance : distance);
          }
          compare(data);
        }
      }
    }
  }
}

TEST_P(EveryRow, CodesEqualToTheZeroPointGiveZero) {
  Rng rng(22);
  for (const int bits : {2, 3, 4, 8}) {
    for (const int64_t m : {1, 40}) {
      GemmData data = random_data({.weight = {.n = 20,
                                              .k = 200,
                                              .group_size = 64,
                                              .elements = unsigned_of(bits).value(),
                                              .has_zeros = true},
                                   .m = m},
                                  rng);
      for (int64_t n = 0; n < 20; ++n) {
        for (int64_t k = 0; k < 200; ++k) {
          data.weight.codes[static_cast<size_t>(n * 200 + k)] =
              data.weight.zeros[static_cast<size_t>(n * 4 + k / 64)];
        }
      }
      const Packed packed = pack(row(), data.weight);
      const Output y = run(data, packed.view);
      for (int64_t i = 0; i < m * 20; ++i) ASSERT_EQ(y.get(i), 0) << bits << " bits, at " << i;
    }
  }
}

TEST_P(EveryRow, InfinityStaysInItsRowOfX) {
  Rng rng(23);
  for (const bool zeros : {false, true}) {
    GemmData data = random_data(
        {.weight = {.n = 20, .k = 100, .group_size = 50, .has_zeros = zeros}, .m = 3}, rng);
    data.x.set(data.x_stride + 7, INFINITY);
    const Packed packed = pack(row(), data.weight);
    const Output y = run(data, packed.view);
    for (int64_t n = 0; n < 20; ++n) {
      const int weight = data.weight.centred(n, 7) - data.weight.zero_less_center(n, 0);
      EXPECT_TRUE(std::isfinite(y.get(n)) && std::isfinite(y.get(40 + n)));
      if (weight == 0) {
        EXPECT_TRUE(std::isnan(y.get(20 + n)));
      } else {
        EXPECT_EQ(y.get(20 + n), weight > 0 ? INFINITY : -INFINITY);
      }
    }
  }
}

// A thread's flush mode is not inherited by the others, so it must not matter.
TEST_P(EveryRow, DoesNotDependOnTheFlushMode) {
  ThreadPool two(2);
  Rng rng(24);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const DType scale_dtype : {DType::f32, DType::f16}) {
      for (const int64_t m : {1, 40}) {
        GemmData data = random_data(
            {.weight = {.n = 300, .k = 130, .group_size = 130, .scale_dtype = scale_dtype},
             .m = m,
             .dtype = dtype},
            rng);
        const float tiny = dtype == DType::f16 ? 1e-6f : 1e-39f;
        for (int64_t i = 0; i < m * data.x_stride; ++i) data.x.set(i, tiny * data.x.get(i));
        for (int64_t i = 0; i < 300; ++i) data.weight.scales.set(i, 1e-6f);
        const Packed packed = pack(row(), data.weight);
        const Output kept = run(data, packed.view);
        const FlushSubnormals flush;
        EXPECT_TRUE(kept == run(data, packed.view)) << describe(data.shape);
        EXPECT_TRUE(kept == run(data, packed.view, two.parallel())) << describe(data.shape);
      }
    }
  }
}

TEST_P(EveryRow, OneHotActivationsReadTheWeightExactly) {
  Rng rng(15);
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool zeros : {false, true}) {
      Case c{.weight = {.n = 33,
                        .k = 150,
                        .group_size = 64,
                        .elements = unsigned_of(bits).value(),
                        .has_zeros = zeros},
             .m = 150};
      GemmData data = random_data(c, rng);
      for (int64_t m = 0; m < c.m; ++m) {
        for (int64_t k = 0; k < c.weight.k; ++k) data.x.set(m * data.x_stride + k, m == k ? 1 : 0);
      }
      const Packed packed = pack(row(), data.weight);
      const Output y = run(data, packed.view);
      for (int64_t k = 0; k < c.weight.k; ++k) {
        for (int64_t n = 0; n < c.weight.n; ++n) {
          const int64_t g = k / c.weight.group_size;
          const float expected =
              data.weight.scales.get(n * c.weight.groups() + g) *
              static_cast<float>(data.weight.centred(n, k) - data.weight.zero_less_center(n, g));
          ASSERT_EQ(y.get(k * c.weight.n + n), expected)
              << "bits " << bits << " n " << n << " k " << k;
        }
      }
    }
  }
}

TEST_P(EveryRow, RefusesAColumnOutsideX) {
  Rng rng(16);
  GemmData data = random_data({.weight = {.n = 5, .k = 40, .group_size = 40}, .perm = true}, rng);
  const Packed packed = pack(row(), data.weight);
  for (const int32_t bad : {40, -1}) {
    data.perm[7] = bad;
    Output y(DType::f32, 5);
    const Status status = row().run(data.args(packed.view, y.data()), {});
    EXPECT_EQ(status.message(),
              "perm: expected columns in [0, 40), got " + std::to_string(bad) + " at 7");
  }
}

INSTANTIATE_TEST_SUITE_P(W4A16, EveryRow, ::testing::ValuesIn(runnable_rows<W4A16>()),
                         [](const auto& row) { return std::string(row.param->name); });

// The vector rows promise one sequence of roundings, so they agree with each other bit for bit.
TEST(W4A16, VectorRowsAgree) {
  const auto rows = runnable_rows<W4A16>();
  if (rows.size() < 3) GTEST_SKIP() << "needs two vector rows";
  Rng rng(17);
  for (int i = 0; i < 60; ++i) {
    const GemmData data = random_data(random_case(rng), rng);
    const Packed packed = pack(*rows[0], data.weight);
    Output a(data.shape.dtype, data.shape.m * data.shape.weight.n), b = a;
    ASSERT_TRUE(rows[0]->run(data.args(packed.view, a.data()), {}).ok());
    ASSERT_TRUE(rows[1]->run(data.args(packed.view, b.data()), {}).ok());
    EXPECT_TRUE(a == b) << describe(data.shape);
  }
}

TEST(W4A16, EmptyProblemsWriteNothing) {
  Rng rng(18);
  for (const auto& [m, n] : {std::pair<int64_t, int64_t>{0, 20}, {20, 0}, {0, 0}}) {
    const GemmData data = random_data({.weight = {.n = n, .k = 32, .group_size = 32}, .m = m}, rng);
    for (const Row<W4A16>* row : runnable_rows<W4A16>()) {
      const Packed packed = pack(*row, data.weight);
      ASSERT_TRUE(packed.status.ok()) << packed.status.message();
      Output y(DType::f32, 0);
      EXPECT_TRUE(row->run(data.args(packed.view, y.data()), {}).ok());
      EXPECT_TRUE(w4a16_gemm(data.args(packed.view, y.data()), {}).ok());
      EXPECT_TRUE(y.guards_hold());
    }
  }
}

TEST(W4A16, BadArgumentsAreNamed) {
  Rng rng(19);
  const GemmData data =
      random_data({.weight = {.n = 5, .k = 40, .group_size = 40, .has_zeros = true}, .m = 2}, rng);
  const Packed packed = pack(*runnable_rows<W4A16>().front(), data.weight);
  Output y(DType::f32, 10);
  const auto named = [&](auto change) {
    W4A16Args args = data.args(packed.view, y.data());
    change(args);
    const Status status = w4a16_gemm(args, {});
    EXPECT_EQ(status.code(), StatusCode::invalid_argument) << status.message();
    return status.message().substr(0, status.message().find(':'));
  };
  EXPECT_EQ(named([](W4A16Args& a) { a.m = -1; }), "m");
  EXPECT_EQ(named([](W4A16Args& a) { a.x = nullptr; }), "x");
  EXPECT_EQ(named([](W4A16Args& a) { a.y = nullptr; }), "y");
  EXPECT_EQ(named([](W4A16Args& a) { a.x_stride = -4; }), "x_stride");
  EXPECT_EQ(named([](W4A16Args& a) { a.dtype = DType{7}; }), "dtype");
  EXPECT_EQ(named([](W4A16Args& a) { a.weight.qweight = nullptr; }), "weight.qweight");
  EXPECT_EQ(named([](W4A16Args& a) { a.weight.scales = nullptr; }), "weight.scales");
  EXPECT_EQ(named([](W4A16Args& a) { a.weight.zeros = nullptr; }), "weight.zeros");
  EXPECT_EQ(named([](W4A16Args& a) { a.weight.layout = 77; }), "weight.layout");
  EXPECT_EQ(named([](W4A16Args& a) { a.weight.shape.elements = Elements::s8; }), "weight.elements");
  EXPECT_EQ(named([](W4A16Args& a) { a.weight.shape.group_size = 41; }), "weight.group_size");
}

}  // namespace
}  // namespace qcore
