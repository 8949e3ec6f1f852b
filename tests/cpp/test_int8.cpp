#include <gtest/gtest.h>

#include "canonical_cases.h"
#include "thread_pool.h"

namespace qcore {
namespace {

using namespace testing;

class EveryRow : public ::testing::TestWithParam<const Row<Int8>*> {
 protected:
  const Row<Int8>& row() const { return *GetParam(); }

  Output run(const Int8Data& d, const Parallel& parallel = {}) {
    Output y(d.shape.dtype, d.shape.m * d.shape.n);
    const Status status = row().run(d.args(y.data()), parallel);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(y.guards_hold()) << describe(d.shape);
    return y;
  }

  void compare(const Int8Data& d) {
    const Output y = run(d);
    for (int64_t i = 0; i < d.shape.m * d.shape.n; ++i) {
      ASSERT_EQ(y.get(i), exact_int8(d, i / d.shape.n, i % d.shape.n))
          << describe(d.shape) << " at " << i;
    }
  }
};

TEST_P(EveryRow, HasThePromisedBits) {
  Rng rng(61);
  for (int i = 0; i < 300 && !HasFailure(); ++i) compare(random_data(random_int8_case(rng), rng));
}

TEST_P(EveryRow, EveryHeight) {
  Rng rng(62);
  for (int64_t m = 1; m <= 132 && !HasFailure(); ++m) {
    compare(random_data(Int8Case{.m = m, .n = 53, .k = 70, .zeros = m % 2 == 0}, rng));
  }
}

TEST_P(EveryRow, LongAndExtreme) {
  Rng rng(63);
  for (const int64_t k : {int64_t{4095}, int64_t{4097}, int64_t{9000}, kInt8MaxK}) {
    for (const int64_t m : {1, 7, 26}) {
      compare(random_data(Int8Case{.m = m, .n = 7, .k = k, .zeros = true}, rng, true));
      compare(random_data(Int8Case{.m = m, .n = 7, .k = k}, rng, true));
    }
  }
}

TEST_P(EveryRow, DependsNeitherOnThreadsNorOnTheBatch) {
  ThreadPool two(2), three(3);
  Rng rng(64);
  for (int i = 0; i < 12; ++i) {
    Int8Case c = random_int8_case(rng);
    c.n = uniform(rng, 100, 400);
    c.x_scales = Granularity::row;
    const Int8Data d = random_data(c, rng);
    const Output one = run(d);
    EXPECT_TRUE(one == run(d, two.parallel())) << describe(c);
    EXPECT_TRUE(one == run(d, three.parallel())) << describe(c);
    for (const int64_t taken : {1, 3, 20, 40}) {
      if (taken > c.m) break;
      Int8Data part = d;
      const int64_t first = uniform(rng, 0, c.m - taken);
      part.shape.m = taken;
      part.x.erase(part.x.begin(), part.x.begin() + first * d.stride());
      part.x_scale.erase(part.x_scale.begin(), part.x_scale.begin() + first);
      part.zeros.erase(part.zeros.begin(), part.zeros.begin() + first);
      EXPECT_TRUE(one.holds(first * c.n, run(part), taken * c.n)) << describe(c);
    }
  }
}

TEST_P(EveryRow, DoesNotDependOnTheFlushMode) {
  Rng rng(65);
  for (const int64_t m : {1, 40}) {
    Int8Data d = random_data(Int8Case{.m = m, .n = 100, .k = 64}, rng);
    for (float& scale : d.x_scale) scale = 1e-30f;
    for (float& scale : d.w_scale) scale = 1e-13f;
    const Output kept = run(d);
    const FlushSubnormals flush;
    EXPECT_TRUE(kept == run(d));
  }
}

TEST_P(EveryRow, QuantizesFloatsToTheBitsOfTwoCalls) {
  Rng rng(66);
  for (int i = 0; i < 60; ++i) {
    RowsCase rows = random_rows_case(rng);
    rows.m = std::min<int64_t>(random_m(rng), 70);
    const RowsData x = random_data(rows, rng);
    Int8Case c = random_int8_case(rng);
    c.m = rows.m, c.k = rows.k, c.x_scales = Granularity::row;
    Int8Data d = random_data(c, rng);
    const bool symmetric = rng() % 2, given = rng() % 2;
    if (given) c.x_scales = Granularity::tensor;
    Output fused(c.dtype, c.m * c.n), two(c.dtype, c.m * c.n);
    Int8Args args = d.args(fused.data());
    args.x = nullptr;
    args.floats = x.rows();
    args.symmetric = symmetric;
    args.x_scales = c.x_scales;
    if (!given) args.x_scale = nullptr;
    if (!given || symmetric) args.x_zero = nullptr;
    if (given && !symmetric) args.x_zero = d.zeros.data();
    ASSERT_TRUE(row().run(args, {}).ok());

    std::vector<int8_t> q(static_cast<size_t>(c.m * c.k));
    std::vector<float> scale(static_cast<size_t>(c.m));
    std::vector<int32_t> zero(static_cast<size_t>(c.m));
    QuantizeInt8Args quantizing;
    quantizing.x = x.rows();
    quantizing.symmetric = symmetric;
    quantizing.granularity = c.x_scales;
    quantizing.given_scale = args.x_scale;
    quantizing.given_zero = args.x_zero;
    quantizing.q = q.data();
    quantizing.scale = scale.data();
    quantizing.zero = symmetric ? nullptr : zero.data();
    ASSERT_TRUE(quantize_int8(quantizing, {}).ok());
    Int8Args second = d.args(two.data());
    second.x = q.data();
    second.x_stride = c.k;
    second.x_scale = scale.data();
    second.x_scales = c.x_scales;
    second.x_zero = symmetric ? nullptr : zero.data();
    ASSERT_TRUE(row().run(second, {}).ok());
    for (int64_t j = 0; j < c.m * c.n; ++j) {
      const float a = fused.get(j), b = two.get(j);
      ASSERT_TRUE(a == b || (std::isnan(a) && std::isnan(b))) << describe(c) << describe(rows);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Int8, EveryRow, ::testing::ValuesIn(runnable_rows<Int8>()),
                         [](const auto& row) { return std::string(row.param->name); });

TEST(Int8, BadArgumentsAreNamed) {
  Rng rng(67);
  const Int8Data d = random_data(Int8Case{.m = 2, .n = 3, .k = 5}, rng);
  Output y(DType::f32, 6);
  const auto named = [&](auto change) {
    Int8Args args = d.args(y.data());
    change(args);
    const Status status = int8_gemm(args, {});
    EXPECT_EQ(status.code(), StatusCode::invalid_argument) << status.message();
    return status.message().substr(0, status.message().find(':'));
  };
  const std::vector<int32_t> bad_zeros{0, 200};
  const float floats[10] = {};
  EXPECT_EQ(named([](Int8Args& a) { a.m = -1; }), "m");
  EXPECT_EQ(named([](Int8Args& a) { a.n = -1; }), "n");
  EXPECT_EQ(named([](Int8Args& a) { a.k = 0; }), "k");
  EXPECT_EQ(named([](Int8Args& a) { a.k = kInt8MaxK + 1; }), "k");
  EXPECT_EQ(named([](Int8Args& a) { a.x = nullptr; }), "x");
  EXPECT_EQ(named([](Int8Args& a) { a.x_stride = -5; }), "x_stride");
  EXPECT_EQ(named([](Int8Args& a) { a.weight = nullptr; }), "weight");
  EXPECT_EQ(named([](Int8Args& a) { a.x_scale = nullptr; }), "x_scale");
  EXPECT_EQ(named([](Int8Args& a) { a.w_scale = nullptr; }), "w_scale");
  EXPECT_EQ(named([](Int8Args& a) { a.y = nullptr; }), "y");
  EXPECT_EQ(named([](Int8Args& a) { a.dtype = DType{9}; }), "dtype");
  EXPECT_EQ(named([](Int8Args& a) { a.x_scales = Granularity::block; }), "x_scales");
  EXPECT_EQ(named([](Int8Args& a) { a.w_scales = Granularity::block; }), "w_scales");
  EXPECT_EQ(named([&](Int8Args& a) { a.x_zero = bad_zeros.data(); }), "x_zero");
  EXPECT_EQ(named([&](Int8Args& a) { a.floats.x = floats; }), "floats.k");
  EXPECT_EQ(named([&](Int8Args& a) { a.floats = {.m = 2, .k = 5, .x = floats, .stride = 5}; }),
            "x");
  EXPECT_EQ(named([&](Int8Args& a) { a.floats = {.m = 2, .k = 4, .x = floats, .stride = 5}; }),
            "floats.k");
}

TEST(Int8, EmptyProblemsWriteNothing) {
  Rng rng(68);
  for (const auto& [m, n] : {std::pair<int64_t, int64_t>{0, 20}, {20, 0}, {0, 0}}) {
    const Int8Data d = random_data(Int8Case{.m = m, .n = n, .k = 8}, rng);
    Output y(DType::f32, 0);
    EXPECT_TRUE(int8_gemm(d.args(y.data()), {}).ok());
    EXPECT_TRUE(y.guards_hold());
  }
}

}  // namespace
}  // namespace qcore
