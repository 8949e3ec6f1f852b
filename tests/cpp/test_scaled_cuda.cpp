// The CUDA kernels of cuda/scaled, run by the emulator: int8 against exact integers, FP8 against
// sums in double, and the ones that quantize first against the two steps.
#include <gtest/gtest.h>

#include <set>

#include "scaled_problem.h"

namespace qcore {
namespace {

using namespace testing;
using simt::Order;
using Problem = W8A8Problem;
using scaled::Limits;
using scaled::Plan;

constexpr Limits kHopper{132, 227 << 10, 228 << 10};

Limits any_limits(Rng& rng) {
  return {pick(rng, {1, 3, 5}), pick(rng, {99 << 10, 227 << 10}),
          pick(rng, {100 << 10, 228 << 10})};
}

std::string describe(const Plan& plan) {
  return "tokens " + std::to_string(plan.tokens) + ", splits " + std::to_string(plan.splits) +
         ", blocks " + std::to_string(plan.blocks);
}

void check(const W8A8Data& d, const std::vector<char>& y, const std::string& how) {
  const std::string what = describe(d.shape) + ", " + how;
  if (d.shape.integer) return expect_exact_int8(d, y, what);
  expect_exact(exact_fp8(d), d.shape.dtype, y.data(), what);
}

// Random problems under the plan for random GPUs. What quantizes first gives the bits of two steps.
void compare(const W8A8Data& d, Rng& rng, int tokens = 0, int splits = 0) {
  const Problem problem(d);
  const ScaledArgs args = problem.args();
  const Limits limits = any_limits(rng);
  const scaled::Work work = scaled::work_of(args);
  const Plan plan =
      tokens ? scaled::make_plan(work, tokens, splits, limits) : scaled::choose_plan(work, limits);
  EXPECT_LE(plan.shared_bytes, limits.shared_bytes);
  const std::vector<char> y = problem.multiply(args, plan, any_schedule(rng));
  if (!d.shape.floats) {
    check(d, y, describe(plan));
    return;
  }
  const W8A8Data q = quantized(d);
  check(q, y, describe(plan) + ", in one launch");
  const Problem two(q);
  const ScaledArgs second = two.args();
  const Plan separate =
      scaled::make_plan(scaled::work_of(second), plan.tokens, plan.splits, limits);
  EXPECT_EQ(y, two.multiply(second, separate)) << describe(d.shape);
}

class Products : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(W8A8, Products, ::testing::Values(true, false),
                         [](const auto& p) { return std::string(p.param ? "Int8" : "Fp8"); });

TEST_P(Products, AreExact) {
  Rng rng = fresh_rng(61);
  for (int i = 0; i < 120; ++i) {
    W8A8Case c = random_case(rng, GetParam(), false);
    if (c.floats) c.gap = pick<int64_t>(rng, {0, 3, 8});  // those may lie anywhere
    compare(random_data(c, rng), rng);
    if (HasFailure()) return;
  }
}

TEST_P(Products, EveryVariant) {
  Rng rng = fresh_rng(62);
  for (const Float8 x_type : {Float8::e4m3, Float8::e5m2}) {
    for (const Float8 w_type : {Float8::e4m3, Float8::e5m2}) {
      W8A8Case c = random_case(rng, GetParam(), false);
      c.x_type = x_type;
      c.w_type = w_type;
      const auto variants = GetParam() ? scaled::work_of({})
                                       : scaled::work_of({.w = {.elements = elements_of(w_type)},
                                                          .x_type = elements_of(x_type)});
      for (const int tokens : variants.tokens) {
        for (const bool floats : {false, true}) {
          c.m = uniform(rng, 1, 2 * tokens + 1);
          c.n = uniform(rng, 100, 300);
          c.k = 16 * uniform(rng, 20, 70);
          c.floats = floats;
          c.norm = c.given = false;
          if (c.x_scales == Granularity::tensor) c.x_scales = Granularity::row;
          const int splits = static_cast<int>(uniform(rng, 1, 3));
          if (!c.integer && splits == 2) c.x_scales = c.w_scales = Granularity::block;
          compare(random_data(c, rng), rng, tokens, splits);
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_P(Products, ReferenceTakesEverything) {
  Rng rng = fresh_rng(63);
  for (int i = 0; i < 60; ++i) {
    const W8A8Data d = random_data(random_case(rng, GetParam(), true), rng);
    const Problem problem(d);
    const std::vector<char> y = problem.multiply_by_reference(problem.args());
    check(d.shape.floats ? quantized(d) : d, y, "reference");
    if (HasFailure()) return;
  }
}

TEST_P(Products, SameBitsInEveryOrderOfBlocks) {
  Rng rng = fresh_rng(64);
  for (int i = 0; i < 6; ++i) {
    W8A8Case c = random_case(rng, GetParam(), false);
    c.n = 300;
    const W8A8Data d = random_data(c, rng);
    const Problem problem(d);
    const ScaledArgs args = problem.args();
    const Plan plan = scaled::make_plan(scaled::work_of(args), 16, 3, {4, 227 << 10, 228 << 10});
    const std::vector<char> y = problem.multiply(args, plan);
    for (const Order order : {Order::descending, Order::shuffled}) {
      EXPECT_EQ(y, problem.multiply(args, plan, {order, static_cast<uint32_t>(i), 4}));
    }
  }
}

// Long sums: of the largest products, and, for FP8, of one large number among many small ones.
TEST_P(Products, LongSumsLoseNothing) {
  Rng rng = fresh_rng(65);
  compare(random_data({.m = 3, .n = 9, .k = 16384, .integer = GetParam(), .zero = GetParam()}, rng),
          rng);
  if (GetParam()) return compare(largest_int8(3, 9, false, rng), rng);
  const W8A8Case c{.m = 3, .n = 9, .k = 16384, .integer = false};
  W8A8Data d = random_data(c, rng);
  std::fill(d.x.begin(), d.x.end(), uint8_t{0x28});  // 1/4
  std::fill(d.w.begin(), d.w.end(), uint8_t{0x28});
  for (int64_t m = 0; m < c.m; ++m) d.x[static_cast<size_t>(m * c.k + 5)] = 0x7e;
  for (int64_t n = 0; n < c.n; ++n) d.w[static_cast<size_t>(n * c.k + 5)] = 0x7e;
  compare(d, rng);
}

// The same where the matrix unit sums as few bits as it does: what is small beside the large term
// is lost in its chunk of 128 columns, and in no other.
TEST(W8A8, SumsOfTheMatrixUnitAreShort) {
  Rng rng = fresh_rng(70);
  for (const Granularity scales : {Granularity::tensor, Granularity::block}) {
    W8A8Case c;
    c.integer = false;
    c.m = 3, c.n = 9, c.k = 16384;
    c.x_scales = c.w_scales = scales;
    W8A8Data d = random_data(c, rng);
    std::fill(d.x.begin(), d.x.end(), uint8_t{0x20});  // 1/8
    std::fill(d.w.begin(), d.w.end(), uint8_t{0x20});
    for (int64_t m = 0; m < c.m; ++m) d.x[static_cast<size_t>(m * c.k + 5)] = 0x7e;  // 448
    for (int64_t n = 0; n < c.n; ++n) d.w[static_cast<size_t>(n * c.k + 5)] = 0x7e;
    std::fill(d.x_scale.begin(), d.x_scale.end(), 1.0f);
    std::fill(d.w_scale.begin(), d.w_scale.end(), 1.0f);
    const Problem problem(d);
    const simt::CoarseFp8 coarse;
    for (const int tokens : {8, 128}) {
      const std::vector<char> y = problem.multiply(
          problem.args(), scaled::make_plan(scaled::work_of(problem.args()), tokens, 2, kHopper));
      for (int64_t i = 0; i < c.m * c.n; ++i) {
        const double lost =
            448.0 * 448 + static_cast<double>(c.k - 1) / 64 - load_scalar(c.dtype, y.data(), i);
        EXPECT_GT(lost, 1) << "the emulator sums more bits than it says";
        EXPECT_LE(lost, 127 / 64.0 + 1) << "more than one chunk was summed by the matrix unit";
      }
    }
  }
}

TEST(W8A8, NanStaysInItsRowAndColumn) {
  Rng rng = fresh_rng(66);
  for (const int tokens : {16, 128}) {
    const W8A8Data d = nan_among_fp8(rng);
    const Problem problem(d);
    const std::vector<char> y = problem.multiply(
        problem.args(), scaled::make_plan(scaled::work_of(problem.args()), tokens, 1, kHopper));
    expect_nan_in_place(d.shape, y);
  }
}

// A row of zero scales and one of NaN among floats, through to y.
TEST(W8A8, FloatsThatAreNotFiniteBecomeNan) {
  Rng rng = fresh_rng(67);
  W8A8Case c;
  c.m = 6;
  c.n = 20;
  c.k = 144;
  c.floats = true;
  for (const bool integer : {true, false}) {
    c.integer = integer;
    W8A8Data d = random_data(c, rng);
    d.floats.set(1 * d.stride() + 7, NAN);
    d.floats.set(2 * d.stride() + 7, INFINITY);
    for (int64_t k = 0; k < c.k; ++k) d.floats.set(3 * d.stride() + k, 0);
    const Problem problem(d);
    const std::vector<char> y = problem.multiply(
        problem.args(),
        scaled::choose_plan(scaled::work_of(problem.args()), {2, 227 << 10, 228 << 10}));
    for (int64_t i = 0; i < c.m * c.n; ++i) {
      const float value = load_scalar(c.dtype, y.data(), i);
      const int64_t m = i / c.n;
      EXPECT_EQ(std::isnan(value), m == 1 || m == 2) << m;
      if (m == 3) {
        EXPECT_EQ(value, 0);
      }
    }
  }
}

TEST(W8A8, OneLaunchWithFloats) {
  Rng rng = fresh_rng(68);
  for (const bool integer : {true, false}) {
    W8A8Case c = random_case(rng, integer, false);
    c.floats = true;
    c.m = 5, c.n = 130, c.k = 1024;
    c.given = false;
    if (c.x_scales == Granularity::tensor) c.x_scales = Granularity::row;
    c.x_type = c.w_type = Float8::e4m3;
    const W8A8Data d = random_data(c, rng);
    const Problem problem(d);
    const ScaledArgs args = problem.args();
    const Plan plan = scaled::make_plan(scaled::work_of(args), 8, 2, {3, 227 << 10, 228 << 10});
    EXPECT_EQ(plan.splits, 2);
    problem.multiply(args, scaled::workspace_of(args, plan).bytes, [&](const ScaledArgs& a) {
      int launches = 0;
      const Emulator emulator;
      const auto counting = [&]<class Kernel>(int blocks, int shared_bytes, const auto& params) {
        ++launches;
        return emulator.template operator()<Kernel>(blocks, shared_bytes, params);
      };
      const Status status = scaled::run_gemm(a, plan, counting);
      EXPECT_EQ(launches, 1);
      return status;
    });
  }
}

// ---- Plans

TEST(W8A8Plan, FillsTheGpuAndFits) {
  Rng rng = fresh_rng(69);
  for (int i = 0; i < 3000; ++i) {
    const scaled::Work work{uniform(rng, 1, 9000), uniform(rng, 1, 30000),
                            16 * uniform(rng, 1, 2000), pick(rng, {false, true}),
                            scaled::work_of({}).tokens};
    const Limits limits{pick(rng, {1, 40, 108, 132}), pick(rng, {99 << 10, 163 << 10, 227 << 10}),
                        pick(rng, {100 << 10, 164 << 10, 228 << 10})};
    const Plan plan = scaled::choose_plan(work, limits);
    ASSERT_GT(plan.tokens, 0);
    EXPECT_LE(plan.shared_bytes, limits.shared_bytes);
    EXPECT_GE(int64_t{plan.tokens} * plan.token_blocks, work.m);
    EXPECT_GE(int64_t{plan.split_chunks} * plan.splits * scaled::kChunk, work.k);
    EXPECT_LT(int64_t{plan.split_chunks} * (plan.splits - 1) * scaled::kChunk, work.k);
    if (work.fused) {
      EXPECT_LE(plan.blocks, 2 * limits.multiprocessors);
    } else {
      EXPECT_EQ(plan.blocks, plan.works());
    }
  }
}

TEST(W8A8Plan, WhatAnH200IsGiven) {
  const auto plan = [](int64_t m, int64_t n, int64_t k) {
    return scaled::choose_plan({m, n, k, false, scaled::work_of({}).tokens}, kHopper);
  };
  EXPECT_EQ(plan(1, 28672, 8192).tokens, 8);
  EXPECT_EQ(plan(1, 28672, 8192).splits, 1);
  EXPECT_EQ(plan(16, 4096, 4096).tokens, 16);
  EXPECT_GE(plan(16, 4096, 4096).blocks, 120);  // K is split, to use all multiprocessors
  EXPECT_EQ(plan(4096, 4096, 4096).tokens, 128);
  EXPECT_EQ(plan(4096, 4096, 4096).splits, 1);
}

}  // namespace
}  // namespace qcore
