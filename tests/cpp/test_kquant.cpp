#include <gtest/gtest.h>

#include "kquant_cases.h"
#include "output.h"
#include "thread_pool.h"

namespace qcore {
namespace {

using namespace testing;

class EveryRow : public ::testing::TestWithParam<const Row<Kquant>*> {
 protected:
  const Row<Kquant>& row() const { return *GetParam(); }

  Output run(const KquantData& data, const PackedBlocks& packed, const Parallel& parallel = {}) {
    Output y(data.shape.dtype, data.shape.m * data.shape.weight.n);
    const Status status = row().run(data.args(packed, y.data()), parallel);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(y.guards_hold()) << describe(data.shape);
    return y;
  }

  void compare(const KquantData& data) {
    const PackedKquant packed = data.pack(row().weight_layout());
    const Output y = run(data, packed.view);
    const std::vector<Exact> exact = exact_gemm(data);
    // Sums are rounded once or twice for each block, float activations for each element.
    const int64_t steps =
        data.shape.float_activations ? data.shape.weight.k : 2 * data.shape.weight.blocks_per_row();
    const double step = (8 + static_cast<double>(steps)) * 0x1p-24;
    for (size_t i = 0; i < exact.size(); ++i) {
      const double got = y.get(static_cast<int64_t>(i));
      const double bound =
          step * exact[i].magnitude + 1.01 * half_step(data.shape.dtype, exact[i].value);
      ASSERT_LE(std::abs(got - exact[i].value), bound)  // false for NaN
          << describe(data.shape) << " at " << i << ": expected " << exact[i].value << ", got "
          << got;
    }
  }
};

TEST_P(EveryRow, IsCloseToTheExactProduct) {
  Rng rng(31);
  for (const BlockFormat& format : block_formats()) {
    for (int i = 0; i < 25; ++i) {
      compare(random_data(random_kquant_case(format, rng), rng));
      if (HasFailure()) return;
    }
  }
}

TEST_P(EveryRow, EveryHeightOfTile) {
  Rng rng(32);
  for (const BlockFormat& format : block_formats()) {
    for (int64_t m = 1; m <= 40; ++m) {
      compare(random_data({.weight = {&format, 19, format.elements * 2}, .m = m}, rng));
      if (HasFailure()) return;
    }
  }
}

// The integer part is exact and the float part one sequence of roundings, so that the rows agree
// with the reference bit for bit.
TEST_P(EveryRow, IsTheReferenceBitForBit) {
  const Row<Kquant>& reference = *runnable_rows<Kquant>().back();
  Rng rng(33);
  for (const BlockFormat& format : block_formats()) {
    for (int i = 0; i < 30; ++i) {
      const KquantData data = random_data(random_kquant_case(format, rng), rng);
      const PackedKquant packed = data.pack(row().weight_layout());
      const PackedKquant for_reference = data.pack(reference.weight_layout());
      Output expected(data.shape.dtype, data.shape.m * data.shape.weight.n);
      ASSERT_TRUE(reference.run(data.args(for_reference.view, expected.data()), {}).ok());
      ASSERT_TRUE(run(data, packed.view) == expected) << describe(data.shape);
    }
  }
}

// The largest codes, scales and activations: the integers are near their bounds.
TEST_P(EveryRow, LargestIntegers) {
  const Row<Kquant>& reference = *runnable_rows<Kquant>().back();
  Rng rng(34);
  for (const BlockFormat& format : block_formats()) {
    for (const int64_t m : {1, 2, 7, 40}) {
      for (const int fill : {0x00, 0x7f, 0x80, 0xff, 0x3f}) {
        KquantData data = random_data({.weight = {&format, 17, format.elements * 2}, .m = m}, rng);
        for (uint8_t& byte : data.blocks) {
          if (rng() % 8) byte = static_cast<uint8_t>(fill);
        }
        set_scales(format, rng, data.blocks);
        const float sign = fill % 2 ? -1.0f : 1.0f;
        for (int64_t i = 0; i < m * data.x_stride; ++i) {
          data.x.set(i, rng() % 16 ? sign : -sign);
        }
        const PackedKquant packed = data.pack(row().weight_layout());
        const PackedKquant for_reference = data.pack(reference.weight_layout());
        Output expected(data.shape.dtype, data.shape.m * data.shape.weight.n);
        ASSERT_TRUE(reference.run(data.args(for_reference.view, expected.data()), {}).ok());
        ASSERT_TRUE(run(data, packed.view) == expected) << describe(data.shape);
        compare(data);
      }
    }
  }
}

TEST_P(EveryRow, DoesNotDependOnThreads) {
  ThreadPool two(2), three(3);
  Rng rng(35);
  for (const BlockFormat& format : block_formats()) {
    for (int i = 0; i < 4; ++i) {
      KquantCase c = random_kquant_case(format, rng);
      c.weight.n = uniform(rng, 100, 400);
      c.m = std::min<int64_t>(c.m, 9);
      const KquantData data = random_data(c, rng);
      const PackedKquant packed = data.pack(row().weight_layout());
      const Output one = run(data, packed.view);
      EXPECT_TRUE(one == run(data, packed.view, two.parallel())) << describe(c);
      EXPECT_TRUE(one == run(data, packed.view, three.parallel())) << describe(c);
    }
  }
}

TEST_P(EveryRow, DoesNotDependOnTheBatch) {
  Rng rng(36);
  for (const BlockFormat& format : block_formats()) {
    for (int i = 0; i < 6; ++i) {
      const KquantData data = random_data(random_kquant_case(format, rng), rng);
      const PackedKquant packed = data.pack(row().weight_layout());
      const Output batch = run(data, packed.view);
      for (const int64_t taken : {1, 2, 3, 5, 8, 12, 30}) {
        if (taken > data.shape.m) break;
        KquantData part = data;
        const int64_t first = uniform(rng, 0, data.shape.m - taken);
        part.shape.m = taken;
        part.x.bytes.erase(
            part.x.bytes.begin(),
            part.x.bytes.begin() + first * data.x_stride * size_of(data.shape.dtype));
        const Output alone = run(part, packed.view);
        EXPECT_TRUE(batch.holds(first * data.shape.weight.n, alone, taken * data.shape.weight.n))
            << describe(data.shape) << " rows " << first << " + " << taken;
      }
    }
  }
}

TEST_P(EveryRow, WhatIsNotFiniteStaysInItsRowOfX) {
  Rng rng(37);
  for (const BlockFormat& format : block_formats()) {
    for (const float bad : {INFINITY, -INFINITY, NAN}) {
      for (const int64_t m : {3, 40}) {
        KquantData data = random_data({.weight = {&format, 20, format.elements * 3}, .m = m}, rng);
        data.x.set(data.x_stride + format.elements + 7, bad);
        const PackedKquant packed = data.pack(row().weight_layout());
        const Output y = run(data, packed.view);
        for (int64_t i = 0; i < m * 20; ++i) {
          ASSERT_EQ(std::isnan(y.get(i)), i / 20 == 1) << format.name << " " << bad << " at " << i;
          ASSERT_FALSE(std::isinf(y.get(i)));
        }
      }
    }
  }
}

TEST_P(EveryRow, TinyActivationsAreZeroAndHugeOnesAreNot) {
  Rng rng(38);
  for (const BlockFormat& format : block_formats()) {
    for (const int64_t m : {1, 40}) {
      KquantData data =
          random_data({.weight = {&format, 20, format.elements}, .m = m, .bias = true}, rng);
      const PackedKquant packed = data.pack(row().weight_layout());
      for (const float tiny : {0.0f, 1e-45f, 1e-38f, 1e-36f}) {
        for (int64_t i = 0; i < m * data.x_stride; ++i) data.x.set(i, i % 2 ? tiny : -tiny);
        const Output y = run(data, packed.view);
        for (int64_t i = 0; i < m * 20; ++i) ASSERT_EQ(y.get(i), data.bias.get(i % 20));
      }
      for (int64_t i = 0; i < m * data.x_stride; ++i) data.x.set(i, i % 2 ? 1e30f : -1e30f);
      compare(data);
    }
  }
}

// A thread's flush mode is not inherited by the others, so it must not matter.
TEST_P(EveryRow, DoesNotDependOnTheFlushMode) {
  ThreadPool two(2);
  Rng rng(39);
  for (const BlockFormat& format : block_formats()) {
    for (const bool floats : {false, true}) {
      for (const int64_t m : {1, 40}) {
        KquantData data = random_data(
            {.weight = {&format, 300, format.elements * 2}, .m = m, .float_activations = floats},
            rng);
        for (int64_t i = 0; i < m * data.x_stride; ++i) data.x.set(i, 1e-35f * data.x.get(i));
        set_scales(format, rng, data.blocks, 1e-6f);
        const PackedKquant packed = data.pack(row().weight_layout());
        const Output kept = run(data, packed.view);
        const FlushSubnormals flush;
        EXPECT_TRUE(kept == run(data, packed.view)) << describe(data.shape);
        EXPECT_TRUE(kept == run(data, packed.view, two.parallel())) << describe(data.shape);
      }
    }
  }
}

TEST_P(EveryRow, OneHotFloatActivationsReadTheWeightExactly) {
  Rng rng(40);
  for (const BlockFormat& format : block_formats()) {
    const int64_t k = format.elements * 2, n = 33;
    KquantData data =
        random_data({.weight = {&format, n, k}, .m = k, .float_activations = true}, rng);
    for (int64_t i = 0; i < k * k; ++i) data.x.set(i, i / k == i % k ? 1 : 0);
    const PackedKquant packed = data.pack(row().weight_layout());
    const Output y = run(data, packed.view);
    std::vector<float> w(static_cast<size_t>(n * k));
    format.decode(data.blocks.data(), n * 2, w.data());
    for (int64_t i = 0; i < n * k; ++i) {
      ASSERT_EQ(y.get(i % k * n + i / k), w[static_cast<size_t>(i)]) << format.name << " at " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kquant, EveryRow, ::testing::ValuesIn(runnable_rows<Kquant>()),
                         [](const auto& row) { return std::string(row.param->name); });

TEST(Kquant, EightBitsAreCloseToFloats) {
  Rng rng(41);
  for (const BlockFormat& format : block_formats()) {
    KquantData data = random_data({.weight = {&format, 64, 1024}, .m = 3}, rng);
    const std::vector<Exact> rounded = exact_gemm(data);
    data.shape.float_activations = true;
    const std::vector<Exact> exact = exact_gemm(data);
    double error = 0, norm = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      error += (rounded[i].value - exact[i].value) * (rounded[i].value - exact[i].value);
      norm += exact[i].value * exact[i].value;
    }
    EXPECT_LT(std::sqrt(error / norm), 0.01) << format.name;
    EXPECT_GT(error, 0) << format.name;
  }
}

TEST(Kquant, EmptyProblemsWriteNothing) {
  Rng rng(42);
  for (const BlockFormat& format : block_formats()) {
    for (const auto& [m, n] : {std::pair<int64_t, int64_t>{0, 20}, {20, 0}, {0, 0}}) {
      const KquantData data = random_data({.weight = {&format, n, format.elements}, .m = m}, rng);
      for (const Row<Kquant>* row : runnable_rows<Kquant>()) {
        const PackedKquant packed = data.pack(row->weight_layout());
        Output y(DType::f32, 0);
        EXPECT_TRUE(row->run(data.args(packed.view, y.data()), {}).ok());
        EXPECT_TRUE(kquant_gemm(data.args(packed.view, y.data()), {}).ok());
        EXPECT_TRUE(y.guards_hold());
      }
    }
  }
}

TEST(Kquant, BadArgumentsAreNamed) {
  Rng rng(43);
  const BlockFormat& format = *find_block_format("Q4_K");
  const KquantData data = random_data({.weight = {&format, 5, 512}, .m = 2}, rng);
  const PackedKquant packed = data.pack(runnable_rows<Kquant>().front()->weight_layout());
  Output y(DType::f32, 10);
  const auto message = [&](auto change) {
    KquantArgs args = data.args(packed.view, y.data());
    change(args);
    const Status status = kquant_gemm(args, {});
    EXPECT_EQ(status.code(), StatusCode::invalid_argument) << status.message();
    return status.message();
  };
  const auto named = [&](auto change) {
    const std::string text = message(change);
    return text.substr(0, text.find(':'));
  };
  EXPECT_EQ(named([](KquantArgs& a) { a.m = -1; }), "m");
  EXPECT_EQ(named([](KquantArgs& a) { a.x = nullptr; }), "x");
  EXPECT_EQ(named([](KquantArgs& a) { a.y = nullptr; }), "y");
  EXPECT_EQ(named([](KquantArgs& a) { a.x_stride = -4; }), "x_stride");
  EXPECT_EQ(named([](KquantArgs& a) { a.dtype = DType{7}; }), "dtype");
  EXPECT_EQ(named([](KquantArgs& a) { a.weight.data = nullptr; }), "weight.data");
  EXPECT_EQ(named([](KquantArgs& a) { a.weight.layout = 77; }), "weight.layout");
  EXPECT_EQ(named([](KquantArgs& a) { a.weight.shape.format = nullptr; }), "weight.format");
  EXPECT_EQ(named([](KquantArgs& a) { a.weight.shape.n = -1; }), "weight.n");
  EXPECT_EQ(message([](KquantArgs& a) { a.weight.shape.k = 500; }),
            "weight.k: expected 1 .. 67108864 and a multiple of 256, the elements of a block of "
            "Q4_K, got 500");
  KquantArgs args = data.args(packed.view, y.data());
  args.weight.layout = 1;  // of another format
  EXPECT_EQ(kquant_gemm(args, {}).code(), StatusCode::unsupported);
}

}  // namespace
}  // namespace qcore
