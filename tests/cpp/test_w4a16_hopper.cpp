// The Hopper kernel of cuda/w4a16, run by the emulator, and how it is cut up.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "w4a16_problem.h"

namespace qcore {
namespace {

using namespace testing;
using simt::Order;
using tile::Segment;
using tile::Segments;
using tile::Split;
using w4a16::HopperPlan;
using w4a16::HopperTileKey;
using w4a16::Sharing;

std::string describe(const HopperPlan& plan) {
  return "tile " + std::to_string(plan.tile.rows) + "x" + std::to_string(plan.tile.tokens) +
         ", sharing " + std::to_string(static_cast<int>(plan.sharing)) + ", multiprocessors " +
         std::to_string(plan.multiprocessors);
}

Sharing any_sharing(Rng& rng) {
  return pick(rng, {Sharing::nothing, Sharing::rest, Sharing::rest_and_round});
}
HopperTileKey any_tile(Rng& rng) {
  return w4a16::kHopperTiles[uniform(rng, 0, std::ssize(w4a16::kHopperTiles) - 1)];
}
HopperPlan any_plan(const W4A16Args& args, Rng& rng) {
  return w4a16::make_hopper_plan(args, any_tile(rng), any_sharing(rng),
                                 static_cast<int>(pick<int64_t>(rng, {1, 2, 3, 7, 132})));
}

TEST(MarlinHopper, IsCloseToTheExactProduct) {
  Rng rng = fresh_rng(51);
  for (int i = 0; i < 120; ++i) {
    const GemmData data = random_data(gpu_case(rng), rng);
    MarlinProblem problem(data, pick<int64_t>(rng, {0, 0, 0, 1, 3}));
    const HopperPlan plan = any_plan(problem.args, rng);
    problem.compare(problem.multiply(plan, any_schedule(rng)), describe(plan));
    if (HasFailure()) return;
  }
}

// Every kernel that is built, with every period of the scales.
TEST(MarlinHopper, EveryVariant) {
  Rng rng = fresh_rng(52);
  std::set<std::pair<int, int>> kinds;  // bits, flush
  for (const HopperTileKey& tile : w4a16::kHopperTiles) {
    for (const DType dtype : {DType::f16, DType::bf16}) {
      for (const int bits : {3, 4, 8}) {
        for (const int64_t group : {32, 64, 128, 96, 2000}) {
          const int64_t k = 8 * uniform(rng, 30, 120);
          const int64_t n = uniform(rng, 1, 2 * tile.rows);
          const int64_t m = uniform(rng, 1, 2 * tile.tokens);
          Case c = kind_case(rng, bits, group, dtype, n, k, m);
          if (bits == 8 && group != 96) {
            c.weight.has_zeros = false;
            c.weight.elements = pick(rng, {Elements::u8, Elements::e4m3});
          }
          kinds.insert(
              {w4a16::stored_bits(bits), w4a16::flush_halves(c.weight, w4a16::kHopperHalves)});
          const GemmData data = random_data(c, rng);
          MarlinProblem problem(data);
          const HopperPlan plan = w4a16::make_hopper_plan(problem.args, tile, any_sharing(rng), 3);
          problem.compare(problem.multiply(plan, any_schedule(rng)), describe(plan));
          if (HasFailure()) return;
        }
      }
    }
  }
  EXPECT_EQ(kinds.size(), 6u);
}

TEST(MarlinHopper, SameBitsInEveryOrderAndInPasses) {
  Rng rng = fresh_rng(53);
  for (int i = 0; i < 5; ++i) {
    Case c = gpu_case(rng);
    c.weight.n = 300;
    c.m = 150;
    const GemmData data = random_data(c, rng);
    MarlinProblem problem(data);
    const HopperPlan plan = any_plan(problem.args, rng);
    const std::vector<char> y = problem.multiply(plan);
    for (const Order order : {Order::descending, Order::shuffled}) {
      EXPECT_EQ(y, problem.multiply(plan, {order, static_cast<uint32_t>(i), 4}));
    }
    HopperPlan cut = w4a16::make_hopper_plan(problem.args, plan.tile, Sharing::nothing, 3);
    const std::vector<char> whole = problem.multiply(cut);
    cut.tokens = uniform(rng, 1, 100);
    EXPECT_EQ(whole, problem.multiply(cut)) << testing::describe(c);
  }
}

// Both kernels read the same codes, scales and zero points of one packed weight: a basis vector
// returns one column, with the same bits.
TEST(MarlinHopper, OneHotReturnsWhatTheKernelForAllCardsReturns) {
  Rng rng = fresh_rng(54);
  for (int i = 0; i < 10; ++i) {
    Case c = gpu_case(rng);
    c.bias = false;
    c.m = uniform(rng, 1, 140);
    GemmData data = random_data(c, rng);
    for (int64_t m = 0; m < c.m; ++m) {
      const int64_t k = uniform(rng, 0, c.weight.k - 1);
      for (int64_t j = 0; j < c.weight.k; ++j) data.x.set(m * data.x_stride + j, j == k);
    }
    MarlinProblem problem(data);
    const HopperPlan plan = any_plan(problem.args, rng);
    EXPECT_EQ(problem.multiply(plan),
              problem.multiply(w4a16::choose_plan(problem.args, {8, 227 << 10})))
        << testing::describe(c) << describe(plan);
  }
}

TEST(MarlinHopper, InfinityAndNaNStayInTheirRow) {
  Rng rng = fresh_rng(55);
  Case c{.weight = {.n = 70, .k = 200, .group_size = 64}, .m = 12, .dtype = DType::bf16};
  GemmData data = random_data(c, rng);
  data.x.set(3 * data.x_stride + 77, INFINITY);
  data.x.set(9 * data.x_stride + 5, NAN);
  MarlinProblem problem(data);
  const std::vector<char> y = problem.multiply(any_plan(problem.args, rng));
  for (int64_t i = 0; i < c.m * c.weight.n; ++i) {
    const float value = load_scalar(c.dtype, y.data(), i);
    EXPECT_EQ(std::isfinite(value), i / c.weight.n != 3 && i / c.weight.n != 9) << i;
  }
}

TEST(MarlinHopper, TakesRowsThatLieInOnePlace) {
  Rng rng = fresh_rng(57);
  const Case c{.weight = {.n = 100, .k = 256, .group_size = 128}, .m = 40, .dtype = DType::f16};
  GemmData data = random_data(c, rng);
  for (int64_t m = 1; m < c.m; ++m) {
    for (int64_t k = 0; k < 256; ++k) data.x.set(m * data.x_stride + k, data.x.get(k));
  }
  MarlinProblem problem(data);
  problem.args.x_stride = 0;
  const HopperPlan plan = any_plan(problem.args, rng);
  EXPECT_TRUE(plan.gather);
  problem.compare(problem.multiply(plan), describe(plan));
}

// ---- How a product is cut up

TEST(MarlinHopperPlan, EveryChunkIsDoneOnce) {
  Rng rng = fresh_rng(56);
  for (int i = 0; i < 400; ++i) {
    W4A16Args args{.m = uniform(rng, 1, 3000), .dtype = DType::bf16, .x_stride = 1 << 16};
    args.weight.shape = {.n = uniform(rng, 1, 30000), .k = uniform(rng, 1, 4000), .group_size = 32};
    args.weight.shape.group_size = std::min<int64_t>(32, args.weight.shape.k);
    const HopperPlan plan =
        w4a16::make_hopper_plan(args, any_tile(rng), any_sharing(rng), pick(rng, {1, 3, 78, 132}));
    const int64_t chunks = w4a16::hopper_chunks(w4a16::Geometry(args.weight.shape));
    const Split split = plan.split(args.m, args.weight.shape.n, chunks);
    ASSERT_EQ(split.whole % plan.multiprocessors == 0 || split.sharing == 0, true);
    ASSERT_LE(split.blocks, plan.multiprocessors);
    std::vector<int> done(static_cast<size_t>(split.tiles));  // chunks, in order of the blocks
    std::set<int> slots;
    int64_t longest = 0, shortest = chunks * split.tiles;
    for (int block = 0; block < split.blocks; ++block) {
      Segments segments(split, block);
      int64_t length = 0;
      for (Segment s; segments.next(s);) {
        ASSERT_LT(s.first, s.end);
        ASSERT_EQ(done[static_cast<size_t>(s.tile)], s.first);
        done[static_cast<size_t>(s.tile)] = s.end;
        ASSERT_EQ(s.whole(), s.first == 0 && s.end == chunks);
        if (!s.whole()) {
          ASSERT_TRUE(slots.insert(s.slot).second);
          ASSERT_LT(s.slot, 2 * plan.multiprocessors);
        }
        if (s.tile < split.whole) continue;
        length += s.end - s.first;
        // What adds the parts up finds the same ones: of all but the first, the first slot.
        const int64_t begin = (s.tile - split.whole) * chunks;
        ASSERT_EQ(split.sharer(begin) == block, s.first == 0);
        ASSERT_EQ(split.sharer(begin + chunks - 1) == block, s.end == chunks);
        ASSERT_TRUE(s.first == 0 || s.slot == 2 * block);
      }
      if (block < split.sharing) {
        longest = std::max(longest, length);
        shortest = std::min(shortest, length);
      }
    }
    for (const int end : done) ASSERT_EQ(end, chunks);
    ASSERT_TRUE(split.sharing == 0 || longest - shortest <= 1);
  }
}

TEST(MarlinHopperPlan, KeepsAllMultiprocessorsBusyAndItsWorkspaceSmall) {
  for (const int64_t m : {33, 64, 128, 256, 512, 1024, 4096, 100000}) {
    for (const int64_t n : {256, 1024, 4096, 14336, 28672}) {
      for (const int bits : {4, 8}) {
        W4A16Args args{.m = m, .dtype = DType::bf16, .x_stride = 8192};
        args.weight.shape = {
            .n = n, .k = 8192, .group_size = 128, .elements = unsigned_of(bits).value()};
        const HopperPlan plan = w4a16::choose_hopper_plan(args, 132);
        const int64_t chunks = w4a16::hopper_chunks(w4a16::Geometry(args.weight.shape));
        const Split split = plan.split(m, n, chunks);
        int64_t busiest = 0;
        for (int block = 0; block < split.blocks; ++block) {
          int64_t length = 0;
          Segments segments(split, block);
          for (Segment s; segments.next(s);) length += s.end - s.first;
          busiest = std::max(busiest, length);
        }
        const double share = static_cast<double>(split.tiles) * static_cast<double>(chunks) /
                             (static_cast<double>(busiest) * 132);
        EXPECT_GT(share, n < 1024   ? 0.2
                         : n < 4096 ? 0.5
                                    : 0.75)
            << m << " " << n << " " << describe(plan);
        EXPECT_LE(plan.workspace_bytes(), tile::kMostWorkspaceBytes);
        EXPECT_LE(plan.tile.tokens, m <= 64 ? 64 : 128);
      }
    }
  }
}

TEST(MarlinHopperPlan, EveryWeightHasAPipeline) {
  for (const HopperTileKey& tile : w4a16::kHopperTiles) {
    for (const int bits : {4, 8}) {
      for (const int64_t group : {32, 64, 4096}) {
        const ScaledWeight w{.n = 4096,
                             .k = 4096,
                             .group_size = group,
                             .elements = unsigned_of(bits).value(),
                             .has_zeros = true,
                             .scale_dtype = DType::f32};
        EXPECT_TRUE(w4a16::with_hopper_variant(w, tile, [&]<class V>() {
          const bool large = bits == 8 && tile == w4a16::kHopperTiles[0];
          EXPECT_GE(V::stages(w), large && group == 32 ? 2 : 3);
          EXPECT_LE(V::shared_bytes(w), kHopperSharedBytes);
        }));
      }
    }
  }
}

TEST(MarlinHopperPlan, SaysWhatItLeavesToOthers) {
  const auto refusal = [](const auto& change) {
    W4A16::Problem problem{.device = Device::cuda, .dtype = DType::bf16, .m = 64, .sm = 90};
    problem.weight = {.n = 4096, .k = 4096, .group_size = 128};
    change(problem);
    return w4a16::hopper_supports(problem).message();
  };
  using P = W4A16::Problem;
  EXPECT_EQ(refusal([](P&) {}), "");
  EXPECT_EQ(refusal([](P& p) { p.m = 33; }), "");
  EXPECT_EQ(refusal([](P& p) { p.m = 0; }), "");   // packing, before any activations are known
  EXPECT_EQ(refusal([](P& p) { p.sm = 0; }), "");  // before a GPU is known
  EXPECT_NE(refusal([](P& p) { p.m = 32; }).find("33 tokens or more"), std::string::npos);
  EXPECT_NE(refusal([](P& p) { p.sm = 100; }).find("9.0 alone"), std::string::npos);
  EXPECT_NE(refusal([](P& p) { p.sm = 80; }).find("9.0 alone"), std::string::npos);
  EXPECT_NE(refusal([](P& p) { p.batch_invariant = true; }).find("order"), std::string::npos);
  EXPECT_NE(refusal([](P& p) { p.dtype = DType::f32; }).find("fp32"), std::string::npos);
}

}  // namespace
}  // namespace qcore
