// Weights [E, N, K] through every CPU row of the ops that take them.
#include <gtest/gtest.h>

#include "expert_cases.h"
#include "thread_pool.h"

namespace qcore {
namespace {

using namespace testing;

template <class Experts>
class EveryRow : public ::testing::Test {
 protected:
  using Op = typename Experts::Op;

  static Output run(const Row<Op>& row, const Experts& problem, const Parallel& parallel = {}) {
    Output y(problem.dtype(), problem.m() * problem.n());
    const Status status = row.run(problem.args(y.data()), parallel);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(y.guards_hold()) << problem.text();
    return y;
  }
};

using Ops = ::testing::Types<W4A16Experts, KquantExperts, Int8Experts>;
struct OpName {
  template <class Experts>
  static std::string GetName(int) {
    return Experts::Op::kName;
  }
};
TYPED_TEST_SUITE(EveryRow, Ops, OpName);

TYPED_TEST(EveryRow, GivesTheBitsOfDenseCallsAndIsCloseToTheExactProduct) {
  Rng rng(81);
  for (const auto* row : runnable_rows<typename TypeParam::Op>()) {
    for (int i = 0; i < 60; ++i) {
      const std::vector<int64_t> rows = random_expert_rows(rng);
      const TypeParam problem(*row, rows, rng);
      const Output y = this->run(*row, problem);
      int64_t at = 0;
      for (size_t e = 0; e < rows.size(); ++e) {
        const int64_t count = rows[e] * problem.n();
        Output dense(problem.dtype(), count);
        ASSERT_TRUE(problem.run_dense(e, dense.data()).ok());
        ASSERT_TRUE(y.holds(at, dense, count)) << row->name << " expert " << e << " of "
                                               << problem.text() << " " << describe_rows(rows);
        const std::vector<Exact> exact = problem.exact(e);
        for (int64_t j = 0; j < count; ++j) {
          const Exact& expected = exact[static_cast<size_t>(j)];
          const double got = y.get(at + j);  // equal infinities have no distance
          ASSERT_TRUE(got == expected.value || std::abs(got - expected.value) <= expected.magnitude)
              << row->name << " expert " << e << " at " << j << " of " << problem.text();
        }
        at += count;
      }
    }
  }
}

TYPED_TEST(EveryRow, DoesNotDependOnThreads) {
  ThreadPool two(2), three(3);
  Rng rng(82);
  for (const auto* row : runnable_rows<typename TypeParam::Op>()) {
    for (int i = 0; i < 30; ++i) {
      const std::vector<int64_t> rows = random_expert_rows(rng);
      const TypeParam problem(*row, rows, rng);
      const Output one = this->run(*row, problem);
      EXPECT_TRUE(one == this->run(*row, problem, two.parallel())) << problem.text();
      EXPECT_TRUE(one == this->run(*row, problem, three.parallel())) << problem.text();
    }
  }
}

// Counts the parallel loops of a call.
int64_t loops_of(const auto& run) {
  int64_t loops = 0;
  const Parallel counting{
      .run =
          [](void* pool, int64_t count, int64_t, Parallel::Body body, void* state) {
            ++*static_cast<int64_t*>(pool);
            body(state, 0, count);
          },
      .pool = &loops};
  run(counting);
  return loops;
}

TYPED_TEST(EveryRow, TakesNoMoreParallelLoopsThanADenseCall) {
  Rng rng(83);
  for (const auto* row : runnable_rows<typename TypeParam::Op>()) {
    const TypeParam dense(*row, {32}, rng);
    std::vector<int64_t> rows(64, 1);
    for (size_t e = 0; e < rows.size(); e += 2) rows[e] = 0;
    const TypeParam experts(*row, rows, rng);
    EXPECT_EQ(loops_of([&](const Parallel& p) { this->run(*row, experts, p); }),
              loops_of([&](const Parallel& p) { this->run(*row, dense, p); }))
        << row->name;
  }
}

TYPED_TEST(EveryRow, BadOffsetsAreNamed) {
  Rng rng(84);
  const auto& row = *runnable_rows<typename TypeParam::Op>().front();
  const TypeParam problem(row, {2, 0, 3}, rng);
  Output y(problem.dtype(), problem.m() * problem.n());
  const auto message = [&](const int32_t* offsets) {
    auto args = problem.args(y.data());
    args.offsets = offsets;
    Status status;
    if constexpr (std::is_same_v<TypeParam, W4A16Experts>) status = w4a16_gemm(args, {});
    if constexpr (std::is_same_v<TypeParam, KquantExperts>) status = kquant_gemm(args, {});
    if constexpr (std::is_same_v<TypeParam, Int8Experts>) status = int8_gemm(args, {});
    return status.message();
  };
  const int32_t good[] = {0, 2, 2, 5}, late[] = {1, 2, 2, 5}, falling[] = {0, 3, 2, 5},
                few[] = {0, 2, 2, 4}, many[] = {0, 2, 2, 6};
  EXPECT_EQ(message(good), "");
  EXPECT_EQ(message(nullptr),
            "offsets: expected a pointer, because the weight has 3 experts, got null");
  EXPECT_EQ(message(late), "offsets: expected 0 at 0, got 1");
  EXPECT_EQ(message(falling), "offsets: expected 3 or more, as before it, at 2, got 2");
  EXPECT_EQ(message(few), "offsets: expected 5, the rows of x, at 3, got 4");
  EXPECT_EQ(message(many), "offsets: expected 5, the rows of x, at 3, got 6");
}

TEST(Experts, SoManyThatSizesOverflowAreRefused) {
  ScaledWeight shape{.n = 1 << 20, .k = 64, .group_size = 64, .experts = 1 << 12};
  EXPECT_EQ(shape.check().message(), "experts: expected 1 .. 2047, of 1048576 rows each, got 4096");
  shape.experts = 0;
  EXPECT_EQ(shape.check().code(), StatusCode::invalid_argument);
  const BlockShape blocks{&block_formats().front(), 1 << 20, 256, 1 << 12};
  EXPECT_EQ(blocks.check().message(),
            "experts: expected 1 .. 2047, of 1048576 rows each, got 4096");
}

TEST(Experts, FloatsAreQuantizedForAllOfThem) {
  Rng rng(85);
  for (const Row<Int8>* row : runnable_rows<Int8>()) {
    for (const bool symmetric : {false, true}) {
      const std::vector<int64_t> rows{3, 0, 1, 30};
      const std::vector<int32_t> offsets = offsets_of(rows);
      const int64_t m = offsets.back(), n = 53, k = 70;
      const RowsData x = random_data(RowsCase{.m = m, .k = k, .norm = true}, rng);
      const Int8Data weights = random_data(Int8Case{.m = 1, .n = 4 * n, .k = k}, rng);
      Int8Args args;
      args.m = m, args.n = n, args.k = k;
      args.experts = 4;
      args.offsets = offsets.data();
      args.floats = x.rows();
      args.symmetric = symmetric;
      args.weight = weights.weight.data();
      args.w_scale = weights.w_scale.data();
      Output y(DType::f32, m * n);
      args.y = y.data();
      ASSERT_TRUE(row->run(args, {}).ok());
      for (size_t e = 0; e < rows.size(); ++e) {
        const int64_t first = offsets[e], expert = static_cast<int64_t>(e);
        Output dense(DType::f32, rows[e] * n);
        Int8Args one = args;
        one.m = one.floats.m = rows[e];
        one.experts = 1;
        one.offsets = nullptr;
        one.floats.x = static_cast<const char*>(args.floats.x) + first * k * 4;
        one.weight += expert * n * k;
        one.w_scale += expert * n;
        one.y = dense.data();
        ASSERT_TRUE(rows[e] == 0 || row->run(one, {}).ok());
        EXPECT_TRUE(y.holds(first * n, dense, rows[e] * n)) << row->name;
      }
    }
  }
}

// ---- packing ----

TEST(Experts, PackingThemIsPackingEach) {
  Rng rng(86);
  for (const ScaledLayout* layout : scaled_layouts()) {
    for (int i = 0; i < 30; ++i) {
      ScaledWeight shape = random_case(rng).weight;
      shape.experts = uniform(rng, 1, 5);
      ScaledWeight stretched = shape;
      stretched.experts = 1;
      stretched.n *= shape.experts;
      Weight all = random_weight(stretched, rng);
      all.shape = shape;
      const Packed packed = pack(*layout, all);
      ASSERT_TRUE(packed.status.ok()) << packed.status.message();

      Packed each;
      for (int64_t e = 0; e < shape.experts; ++e) {
        const auto part = [&](const auto& of, int64_t size) {
          return std::vector(of.begin() + e * size, of.begin() + (e + 1) * size);
        };
        const int64_t parameters = shape.n * shape.groups(), size = size_of(shape.scale_dtype);
        Weight one{shape.of_one_expert(), part(all.codes, shape.n * shape.k), all.scales,
                   part(all.zeros, shape.has_zeros ? parameters : 0)};
        one.scales.bytes = part(all.scales.bytes, parameters * size);
        const Packed alone = pack(*layout, one);
        append(each.qweight, alone.qweight);
        append(each.scales, alone.scales);
        append(each.zeros, alone.zeros);
      }
      EXPECT_EQ(packed.qweight, each.qweight) << layout->name;
      EXPECT_EQ(packed.scales, each.scales) << layout->name;
      EXPECT_EQ(packed.zeros, each.zeros) << layout->name;

      std::vector<uint8_t> codes(all.codes.size(), 0xee), zeros(all.zeros.size(), 0xee);
      std::vector<char> scales(all.scales.bytes.size(), char(0xee));
      ASSERT_TRUE(unpack(packed.view, codes.data(), scales.data(),
                         shape.has_zeros ? zeros.data() : nullptr, {})
                      .ok());
      EXPECT_EQ(codes, all.codes) << layout->name;
      EXPECT_EQ(scales, all.scales.bytes) << layout->name;
      EXPECT_EQ(zeros, all.zeros) << layout->name;
    }
  }
}

TEST(Experts, PackingBlocksIsPackingEach) {
  Rng rng(87);
  for (const BlockLayout* layout : block_layouts()) {
    for (const BlockFormat& format : block_formats()) {
      const BlockShape shape{&format, uniform(rng, 1, 40), format.elements * uniform(rng, 1, 5),
                             uniform(rng, 2, 5)};
      const BlockShape one = shape.of_one_expert();
      const std::vector<uint8_t> blocks = random_blocks(shape, rng);
      std::vector<uint8_t> packed(static_cast<size_t>(packed_bytes(*layout, shape)), 0x55);
      ASSERT_TRUE(pack(*layout, shape, blocks.data(), packed.data(), {}).ok());
      EXPECT_EQ(expert_bytes(*layout, shape) % 64, 0);
      EXPECT_EQ(expert_bytes(*layout, shape) / 64 % 16, layout->number);
      std::vector<uint8_t> alone(static_cast<size_t>(packed_bytes(*layout, one)), 0xaa);
      for (int64_t e = 0; e < shape.experts; ++e) {
        ASSERT_TRUE(pack(*layout, one, blocks.data() + e * one.bytes(), alone.data(), {}).ok());
        EXPECT_TRUE(std::equal(alone.begin(), alone.end(),
                               packed.begin() + e * expert_bytes(*layout, shape)))
            << layout->name << " " << format.name << " expert " << e;
      }
      std::vector<uint8_t> back(blocks.size(), 0xee);
      ASSERT_TRUE(unpack({shape, layout->number, packed.data()}, back.data(), {}).ok());
      EXPECT_EQ(back, blocks) << layout->name << " " << format.name;
    }
  }
}

TEST(Experts, PackNamesTheExpertOfABadCode) {
  Rng rng(88);
  ScaledWeight shape{
      .n = 60, .k = 70, .group_size = 30, .elements = Elements::u3, .has_zeros = true};
  Weight w = random_weight(shape, rng);
  w.shape.n = 20;
  w.shape.experts = 3;
  for (const ScaledLayout* layout : scaled_layouts()) {
    w.codes[(40 + 17) * 70 + 33] = 8;
    EXPECT_EQ(pack(*layout, w).status.message(),
              "codes: expected values below 8 (bits = 3), got 8 at n = 17, k = 33, expert 2");
    w.codes[(40 + 17) * 70 + 33] = 0;
    ScaledView foreign = w.view();
    foreign.codes.order = CodeOrder::gptq;
    char out[1];
    uint8_t zeros[1];
    EXPECT_EQ(pack(*layout, foreign, {out, out, zeros}, {}).message(),
              "experts: expected 1 for codes in an order other than plain, got 3");
  }
}

}  // namespace
}  // namespace qcore
