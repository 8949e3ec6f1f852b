// The Hopper kernel of cuda/scaled, run by the emulator: int8 against exact integers, FP8 against
// sums in double, the choice of tiles, and facts about the launches.
#include <gtest/gtest.h>

#include <cmath>

#include "hopper_cases.h"
#include "scaled/hopper_run.h"
#include "scaled_problem.h"

namespace qcore {
namespace {

using namespace testing;
using scaled::HopperPlan;
using scaled::HopperTileKey;
using simt::Access;
using simt::Order;

std::string describe(const HopperPlan& plan) {
  return "tile " + std::to_string(plan.tile.rows) + "x" + std::to_string(plan.tile.columns) +
         ", splits " + std::to_string(plan.splits) + ", blocks " + std::to_string(plan.blocks);
}

std::vector<char> multiply(const W8A8Data& d, HopperTileKey tile, int splits, int multiprocessors,
                           const Schedule& schedule = {}) {
  const W8A8Problem problem(d);
  const ScaledArgs args = problem.args();
  HopperPlan plan =
      scaled::make_hopper_plan(args.m, args.w.n, args.w.k, tile, splits, multiprocessors);
  if (args.floats.x) plan.blocks = std::min(multiprocessors, 5);
  return problem.multiply(args, scaled::hopper_workspace(args, plan).bytes,
                          [&](const ScaledArgs& with_memory) {
                            return scaled::run_hopper(with_memory, plan, Emulator(schedule));
                          });
}

// The matrix unit cuts FP8 products off (tests/simt/wgmma_arithmetic.cpp), hence the tolerance; the
// last rounding is y's.
void check(const W8A8Data& d, const std::vector<char>& y, const std::string& how) {
  const W8A8Case& c = d.shape;
  const std::string what = describe(c) + ", " + how;
  if (c.integer) return expect_exact_int8(d, y, what);
  const std::vector<Exact> exact = exact_fp8(d);
  const double rounding = c.dtype == DType::f32   ? 0x1p-20
                          : c.dtype == DType::f16 ? 0x1p-11
                                                  : 0x1p-8;
  for (int64_t i = 0; i < c.m * c.n; ++i) {
    const Exact& e = exact[static_cast<size_t>(i)];
    const double got = load_scalar(c.dtype, y.data(), i);
    if (c.dtype == DType::f16 && std::abs(e.value) > 65000) continue;
    ASSERT_NEAR(got, e.value, e.magnitude * 0x1p-9 + std::abs(e.value) * rounding + 0x1p-24)
        << what << ", at " << i / c.n << ", " << i % c.n;
  }
}

std::span<const HopperTileKey> tiles(bool integer) {
  if (integer) return scaled::kHopperInt8Tiles;
  return scaled::kHopperFp8Tiles;
}

class Products : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Hopper, Products, ::testing::Values(true, false),
                         [](const auto& p) { return std::string(p.param ? "Int8" : "Fp8"); });

W8A8Case any_case(Rng& rng, bool integer) {
  W8A8Case c = random_case(rng, integer, false);
  c.floats = c.given = c.norm = false;
  return c;
}

TEST_P(Products, AreExactForEveryTile) {
  Rng rng = fresh_rng(71);
  for (const HopperTileKey& tile : tiles(GetParam())) {
    for (int i = 0; i < 8; ++i) {
      W8A8Case c = any_case(rng, GetParam());
      // A few tiles for one or two blocks, so that the ring runs on from tile to tile.
      c.m = uniform(rng, 1, 2 * tile.rows);
      c.n = uniform(rng, 1, 300);
      const W8A8Data d = random_data(c, rng);
      const int splits = static_cast<int>(uniform(rng, 1, 3)), blocks = pick(rng, {1, 2, 132});
      const Schedule schedule = any_schedule(rng);
      const HopperPlan plan = scaled::make_hopper_plan(c.m, c.n, c.k, tile, splits, blocks);
      check(d, multiply(d, tile, splits, blocks, schedule), describe(plan));
      if (HasFailure()) return;
    }
  }
}

TEST_P(Products, EveryPairOfTypes) {
  Rng rng = fresh_rng(72);
  for (const Float8 x_type : {Float8::e4m3, Float8::e5m2}) {
    for (const Float8 w_type : {Float8::e4m3, Float8::e5m2}) {
      for (const Granularity scales : {Granularity::row, Granularity::block}) {
        if (GetParam() && scales == Granularity::block) continue;
        W8A8Case c = any_case(rng, GetParam());
        c.x_type = x_type;
        c.w_type = w_type;
        c.x_scales = c.w_scales = scales;
        const W8A8Data d = random_data(c, rng);
        check(d, multiply(d, tiles(GetParam())[1], 1, 2, any_schedule(rng)), "types");
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(Products, SameBitsInEveryOrderAndForEveryNumberOfBlocks) {
  Rng rng = fresh_rng(73);
  for (const HopperTileKey& tile : {tiles(GetParam())[1], tiles(GetParam())[3]}) {
    W8A8Case c = any_case(rng, GetParam());
    c.m = 2 * tile.rows - 3;
    c.n = 2 * tile.columns + 9;
    c.k = 1040;
    const W8A8Data d = random_data(c, rng);
    const std::vector<char> y = multiply(d, tile, 2, 1);
    for (const Order order : {Order::ascending, Order::descending, Order::shuffled}) {
      EXPECT_EQ(y, multiply(d, tile, 2, 3, {order, 5, 3}));
    }
  }
}

// So a row's result depends neither on the plan nor on what else is in the batch.
TEST_P(Products, SameBitsForEveryTile) {
  Rng rng = fresh_rng(79);
  W8A8Case c = any_case(rng, GetParam());
  c.m = 70;
  c.n = 150;
  c.k = 1040;
  const W8A8Data d = random_data(c, rng);
  const std::vector<char> y = multiply(d, tiles(GetParam())[0], 1, 2);
  for (const HopperTileKey& tile : tiles(GetParam())) EXPECT_EQ(y, multiply(d, tile, 1, 3));
}

// What is quantized in the launch gives the bits of two launches.
TEST_P(Products, QuantizeFirst) {
  Rng rng = fresh_rng(77);
  for (int i = 0; i < 8; ++i) {
    const HopperTileKey tile = tiles(GetParam())[static_cast<size_t>(i % (GetParam() ? 2 : 4))];
    W8A8Case c = random_case(rng, GetParam(), false);
    c.floats = true;
    if (!c.given && c.x_scales == Granularity::tensor) c.x_scales = Granularity::row;
    c.m = uniform(rng, 1, 300);
    const W8A8Data d = random_data(c, rng);
    const W8A8Data q = quantized(d);
    const int blocks = static_cast<int>(uniform(rng, 1, 4));
    const std::vector<char> y = multiply(d, tile, 1, blocks, any_schedule(rng));
    check(q, y, "in one launch");
    EXPECT_EQ(y, multiply(q, tile, 1, 3)) << describe(c);
    if (HasFailure()) return;
  }
}

// A long K with sums that grow: what the matrix unit would drop if it summed by itself.
TEST_P(Products, LongSumsLoseNothing) {
  Rng rng = fresh_rng(74);
  if (GetParam()) {
    const W8A8Data d = largest_int8(2, 33, true, rng);
    return check(d, multiply(d, {64, 32}, 1, 132), "long");
  }
  const W8A8Case c{.m = 2, .n = 33, .k = 16384, .integer = false};
  W8A8Data d = random_data(c, rng);
  for (uint8_t& byte : d.x) byte &= 0x3f;  // positive, below 2
  for (uint8_t& byte : d.w) byte &= 0x3f;
  const std::vector<char> y = multiply(d, {64, 32}, 1, 132);
  const std::vector<Exact> exact = exact_fp8(d);
  for (int64_t i = 0; i < c.m * c.n; ++i) {
    const double value = exact[static_cast<size_t>(i)].value;
    EXPECT_NEAR(load_scalar(c.dtype, y.data(), i), value, value * 0x1p-8);
  }
}

TEST(Hopper, NanStaysInItsRowAndColumn) {
  Rng rng = fresh_rng(75);
  for (const HopperTileKey& tile : scaled::kHopperFp8Tiles) {
    const W8A8Data d = nan_among_fp8(rng);
    expect_nan_in_place(d.shape, multiply(d, tile, 1, 2));
  }
}

// ---- Plans

TEST(HopperPlan, CoversTheProduct) {
  Rng rng = fresh_rng(76);
  for (int i = 0; i < 3000; ++i) {
    const int64_t m = uniform(rng, 1, 9000), n = uniform(rng, 1, 30000),
                  k = 16 * uniform(rng, 1, 2000);
    const int sms = pick(rng, {1, 40, 114, 132});
    const HopperPlan plan = scaled::choose_hopper_plan(m, n, k, tiles(pick(rng, {false, true})),
                                                       pick(rng, {1, 8}), sms);
    ASSERT_GT(plan.blocks, 0);
    EXPECT_LE(plan.blocks, sms);
    EXPECT_GE(int64_t{plan.row_tiles} * plan.tile.rows, m);
    EXPECT_GE(int64_t{plan.column_tiles} * plan.tile.columns, n);
    EXPECT_GE(int64_t{plan.split_chunks} * plan.splits * scaled::kHopperChunk, k);
    EXPECT_LT(int64_t{plan.split_chunks} * (plan.splits - 1) * scaled::kHopperChunk, k);
  }
}

TEST(HopperPlan, WhatAnH200IsGiven) {
  const auto tile = [](bool integer, int64_t m, int64_t n, int64_t k) {
    return scaled::choose_hopper_plan(m, n, k, tiles(integer), integer ? 8 : 1, 132).tile;
  };
  EXPECT_EQ(tile(true, 8192, 8192, 8192), (HopperTileKey{128, 256}));
  EXPECT_EQ(tile(false, 8192, 8192, 8192), (HopperTileKey{256, 128}));
  EXPECT_EQ(tile(true, 1, 28672, 8192).rows, 64);
  EXPECT_EQ(tile(false, 32, 28672, 8192).rows, 64);
  const HopperPlan narrow =
      scaled::choose_hopper_plan(1, 1024, 8192, scaled::kHopperInt8Tiles, 8, 132);
  EXPECT_GE(narrow.blocks, 120);  // K is split, to use all multiprocessors
}

// Or the two steps, and other batches, would give other bits than one launch.
TEST(HopperPlan, Fp8IsNeverSplit) {
  Rng rng = fresh_rng(78);
  for (int i = 0; i < 300; ++i) {
    ScaledArgs args{.m = uniform(rng, 1, 300),
                    .w = {.n = uniform(rng, 1, 5000),
                          .k = 16 * uniform(rng, 1, 2000),
                          .elements = Elements::e4m3},
                    .x_type = Elements::e4m3};
    if (pick(rng, {false, true})) args.floats.x = &args;
    EXPECT_EQ(scaled::choose_hopper_plan(args, 132).splits, 1);
  }
}

TEST(HopperPlan, SaysWhatItCannotTake) {
  const Int8::Problem good{.device = Device::cuda, .sm = 90, .m = 4, .weight = {.n = 4, .k = 16}};
  const auto refused = [&](auto&& change) {
    Int8::Problem problem = good;
    change(problem);
    return !scaled::hopper_supports(problem).ok();
  };
  EXPECT_TRUE(scaled::hopper_supports(good).ok());
  EXPECT_TRUE(refused([](Int8::Problem& p) { p.sm = 100; }));
  EXPECT_TRUE(refused([](Int8::Problem& p) { p.sm = 89; }));
  EXPECT_TRUE(refused([](Int8::Problem& p) { p.floats = true; }));
  EXPECT_FALSE(refused([](Int8::Problem& p) { p.floats = true, p.m = 65; }));
  EXPECT_TRUE(
      refused([](Int8::Problem& p) { p.floats = true, p.m = 65, p.weight.n = 1, p.weight.k = 8; }));
  EXPECT_TRUE(refused([](Int8::Problem& p) { p.aligned = false; }));
  EXPECT_TRUE(refused([](Int8::Problem& p) { p.weight.k = 0; }));
}

}  // namespace
}  // namespace qcore
