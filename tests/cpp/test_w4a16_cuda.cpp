// The CUDA kernels of cuda/w4a16, run by the emulator: the same source that nvcc compiles.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <set>

#include "w4a16/pack.cuh"
#include "w4a16_problem.h"

namespace qcore {
namespace {

using namespace testing;
using simt::Access;
using simt::Order;
using tile::DeviceLimits;
using tile::Plan;
using tile::VariantKey;

TEST(Marlin, IsCloseToTheExactProduct) {
  Rng rng = fresh_rng(31);
  for (int i = 0; i < 400; ++i) {
    const GemmData data = random_data(gpu_case(rng), rng);
    MarlinProblem problem(data, pick<int64_t>(rng, {0, 0, 0, 1, 3}));
    const DeviceLimits limits{pick(rng, {1, 4, 16, 132}), pick(rng, {99 << 10, 227 << 10})};
    problem.args.batch_invariant = pick(rng, {false, false, true});
    const Plan plan = w4a16::choose_plan(problem.args, limits);
    EXPECT_LE(plan.shared_bytes, limits.shared_bytes);
    problem.compare(problem.multiply(plan, any_schedule(rng)), describe(plan));
    if (::testing::Test::HasFailure()) return;
  }
}

// Every kernel that is built: variants by kinds of weight (4 and 8 bits, all flush periods).
TEST(Marlin, EveryVariant) {
  Rng rng = fresh_rng(32);
  std::set<std::pair<int, int>> kinds;  // bits, flush
  for (const VariantKey& variant : w4a16::kVariants) {
    for (const DType dtype : {DType::f16, DType::bf16}) {
      for (const int bits : {3, 4, 8}) {
        for (const int64_t group : {32, 64, 128, 96, 2000}) {
          const int64_t k = 8 * uniform(rng, 60, 200);
          const int64_t n = uniform(rng, 200, 300);
          const int64_t m = uniform(rng, 1, 20) + pick<int64_t>(rng, {0, 64});
          const Case c = kind_case(rng, bits, group, dtype, n, k, m);
          kinds.insert({w4a16::stored_bits(bits), w4a16::flush_halves(c.weight)});
          const GemmData data = random_data(c, rng);
          MarlinProblem problem(data);
          const Plan plan =
              w4a16::make_plan(problem.args, variant, static_cast<int>(uniform(rng, 1, 3)));
          problem.compare(problem.multiply(plan, any_schedule(rng)), describe(plan));
          if (::testing::Test::HasFailure()) return;
        }
      }
    }
  }
  EXPECT_EQ(kinds.size(), 5u);
}

TEST(Marlin, SameBitsInEveryOrderOfBlocks) {
  Rng rng = fresh_rng(33);
  for (int i = 0; i < 6; ++i) {
    Case c = gpu_case(rng);
    c.weight.n = 300;
    const GemmData data = random_data(c, rng);
    MarlinProblem problem(data);
    const Plan plan = w4a16::make_plan(problem.args, pick(rng, {VariantKey{1, 8}, {2, 2}, {4, 1}}),
                                       static_cast<int>(uniform(rng, 1, 5)));
    const std::vector<char> y = problem.multiply(plan);
    for (const Order order : {Order::descending, Order::shuffled}) {
      EXPECT_EQ(y, problem.multiply(plan, {order, static_cast<uint32_t>(i), 4}));
    }
  }
}

TEST(Marlin, BatchInvariantRowsDoNotDependOnM) {
  Rng rng = fresh_rng(34);
  for (int i = 0; i < 6; ++i) {
    Case c = gpu_case(rng);
    c.m = 90;
    const GemmData data = random_data(c, rng);
    const DeviceLimits limits{pick(rng, {1, 8, 132}), 227 << 10};
    MarlinProblem whole(data);
    whole.args.batch_invariant = true;
    const std::vector<char> y = whole.multiply(w4a16::choose_plan(whole.args, limits));
    for (const int64_t m : {1, 5, 16, 30, 64}) {
      GemmData part = data;
      part.shape.m = m;
      const int64_t first = uniform(rng, 0, c.m - m);
      part.x.bytes.erase(part.x.bytes.begin(), part.x.bytes.begin() + first * data.x_stride * 2);
      MarlinProblem alone(part);
      alone.args.batch_invariant = true;
      const std::vector<char> rows = alone.multiply(w4a16::choose_plan(alone.args, limits));
      EXPECT_EQ(0, std::memcmp(rows.data(), y.data() + first * c.weight.n * 2, rows.size()))
          << describe(c) << ", rows " << first << " + " << m;
    }
  }
}

// A batch that is cut so that the workspace stays small gives the same bits.
TEST(Marlin, PassesDoNotChangeTheResult) {
  Rng rng = fresh_rng(41);
  for (int i = 0; i < 8; ++i) {
    Case c = gpu_case(rng);
    c.m = uniform(rng, 20, 100);
    const GemmData data = random_data(c, rng);
    MarlinProblem problem(data);
    Plan plan = w4a16::make_plan(problem.args, {1, 2}, static_cast<int>(uniform(rng, 1, 3)));
    ASSERT_EQ(plan.tokens, c.m);
    const std::vector<char> whole = problem.multiply(plan);
    plan.tokens = static_cast<int>(uniform(rng, 1, 3)) * 8;
    EXPECT_EQ(whole, problem.multiply(plan)) << describe(c);
  }
}

// A basis vector returns one column of the dequantized weight, rounded once.
TEST(Marlin, OneHotReturnsOneColumnExactly) {
  Rng rng = fresh_rng(35);
  for (int i = 0; i < 12; ++i) {
    Case c = gpu_case(rng);
    c.bias = false;
    c.m = uniform(rng, 1, 40);
    GemmData data = random_data(c, rng);
    std::vector<int64_t> column(static_cast<size_t>(c.m));
    for (int64_t m = 0; m < c.m; ++m) {
      const int64_t k = column[static_cast<size_t>(m)] = uniform(rng, 0, c.weight.k - 1);
      for (int64_t j = 0; j < c.weight.k; ++j) {
        const int64_t source = c.perm ? data.perm[static_cast<size_t>(j)] : j;
        data.x.set(m * data.x_stride + source, j == k ? 1.0f : 0.0f);
      }
    }
    MarlinProblem problem(data);
    const std::vector<char> y =
        problem.multiply(w4a16::choose_plan(problem.args, {pick(rng, {1, 64}), 227 << 10}));
    const ScaledWeight& w = c.weight;
    for (int64_t m = 0; m < c.m; ++m) {
      const int64_t k = column[static_cast<size_t>(m)], g = k / w.group_size;
      for (int64_t n = 0; n < w.n; ++n) {
        const float weight = data.weight.scales.get(n * w.groups() + g) *
                             static_cast<float>(data.weight.value(n, k));
        Buffer rounded(c.dtype, 1);
        rounded.set(0, weight);
        ASSERT_EQ(load_scalar(c.dtype, y.data(), m * w.n + n), rounded.get(0))
            << describe(c) << " m=" << m << " n=" << n << " k=" << k;
      }
    }
  }
}

// Every finite code, subnormal ones too, in the places of both rows that a lane holds.
TEST(Marlin, FloatCodesAreReadExactly) {
  Rng rng = fresh_rng(42);
  for (const Elements floats : {Elements::e4m3, Elements::e5m2}) {
    for (const DType dtype : {DType::f16, DType::bf16}) {
      Case c{.weight = {.n = 256, .k = 32, .group_size = 32, .elements = floats},
             .m = 32,
             .dtype = dtype};
      GemmData data = random_data(c, rng);
      for (int64_t n = 0; n < 256; ++n) {
        data.weight.scales.set(n, 0x1p-2f);
        for (int64_t k = 0; k < 32; ++k) {
          uint8_t& code = data.weight.codes[static_cast<size_t>(n * 32 + k)];
          code = static_cast<uint8_t>(n + k);
          if (!std::isfinite(data.weight.value(n, k))) code = 1;
        }
      }
      for (int64_t m = 0; m < 32; ++m) {
        for (int64_t k = 0; k < 32; ++k) data.x.set(m * data.x_stride + k, m == k ? 1.0f : 0.0f);
      }
      MarlinProblem problem(data);
      const std::vector<char> y =
          problem.multiply(w4a16::choose_plan(problem.args, {8, 227 << 10}));
      const std::vector<char> reference = problem.multiply_by_reference();
      EXPECT_EQ(y, reference);
      for (int64_t i = 0; i < 32 * 256; ++i) {
        ASSERT_EQ(load_scalar(dtype, y.data(), i),
                  static_cast<float>(data.weight.value(i % 256, i / 256)) * 0x1p-2f)
            << "n " << i % 256 << ", k " << i / 256;
      }
    }
  }
}

TEST(Marlin, InfinityAndNaNStayInTheirRow) {
  Rng rng = fresh_rng(36);
  Case c{.weight = {.n = 70, .k = 200, .group_size = 64}, .m = 12, .dtype = DType::f16};
  c.weight.scale_dtype = DType::f16;
  GemmData data = random_data(c, rng);
  data.x.set(3 * data.x_stride + 77, INFINITY);
  data.x.set(9 * data.x_stride + 5, NAN);
  MarlinProblem problem(data);
  const std::vector<char> y = problem.multiply(w4a16::choose_plan(problem.args, {8, 227 << 10}));
  for (int64_t i = 0; i < c.m * c.weight.n; ++i) {
    const float value = load_scalar(c.dtype, y.data(), i);
    const int64_t m = i / c.weight.n, n = i % c.weight.n;
    if (m == 9) {
      EXPECT_TRUE(std::isnan(value));
    } else if (m == 3) {
      EXPECT_EQ(std::isnan(value), data.weight.centred(n, 77) == 0);  // infinity times zero
      EXPECT_FALSE(std::isfinite(value));
    } else {
      EXPECT_TRUE(std::isfinite(value));
    }
  }
}

TEST(Marlin, AColumnThatDoesNotExistGivesNaN) {
  Rng rng = fresh_rng(37);
  Case c{.weight = {.n = 5, .k = 64, .group_size = 64}, .m = 2, .dtype = DType::bf16, .perm = true};
  GemmData data = random_data(c, rng);
  for (const int32_t bad : {-1, 64, 1 << 30}) {
    data.perm[10] = bad;
    MarlinProblem problem(data);
    for (const std::vector<char>& y :
         {problem.multiply(w4a16::choose_plan(problem.args, {8, 227 << 10})),
          problem.multiply_by_reference()}) {
      for (int64_t i = 0; i < 10; ++i) EXPECT_TRUE(std::isnan(load_scalar(c.dtype, y.data(), i)));
    }
  }
}

TEST(MarlinReference, IsCloseToTheExactProduct) {
  Rng rng = fresh_rng(38);
  for (int i = 0; i < 60; ++i) {
    Case c = random_case(rng);
    c.m = std::max<int64_t>(1, std::min<int64_t>(c.m, 20));
    const GemmData data = random_data(c, rng);
    MarlinProblem problem(data);
    problem.compare(problem.multiply_by_reference(), "reference");
    if (::testing::Test::HasFailure()) return;
  }
}

// ---- Packing in the memory of a GPU

TEST(MarlinPack, DeviceGivesTheBytesOfTheHost) {
  Rng rng = fresh_rng(39);
  const Emulator launch({Order::shuffled, 1, 2});
  for (int i = 0; i < 25; ++i) {
    const Weight w = random_weight(random_case(rng).weight, rng);
    const Packed host = pack(w4a16::layout, w);
    const size_t scales = w.scales.bytes.size();
    std::vector<int32_t> perm(static_cast<size_t>(w.shape.k));
    for (size_t j = 0; j < perm.size(); ++j) perm[j] = static_cast<int32_t>(j);
    const simt::Buffer codes_in("codes", w.codes), scales_in("scales", w.scales.bytes),
        zeros_in("zeros", w.zeros), perm_in("perm", perm);
    const simt::Buffer qweight("packed qweight", host.qweight.size(), Access::write_once),
        packed_scales("packed scales", host.scales.size(), Access::write_once),
        packed_zeros("packed zeros", host.zeros.size(), Access::write_once);
    simt::Buffer bad("bad", 8, Access::read_write);
    bad.fill(0);
    uint8_t* const zeros_to = w.shape.has_zeros ? packed_zeros.data<uint8_t>() : nullptr;
    const ScaledView view{w.shape,
                          {codes_in.data<char>(), CodeOrder::plain, perm_in.data<int32_t>()},
                          scales_in.data<char>(),
                          w.shape.has_zeros ? zeros_in.data<uint8_t>() : nullptr};
    ASSERT_TRUE(w4a16::run_pack(view, {qweight.data<char>(), packed_scales.data<char>(), zeros_to},
                                bad.data<uint32_t>(), launch)
                    .ok());
    EXPECT_EQ(bad.values<uint32_t>(), (std::vector<uint32_t>{0, 0}));
    EXPECT_EQ(qweight.values<char>(), host.qweight);
    EXPECT_EQ(packed_scales.values<char>(), host.scales);
    EXPECT_EQ(packed_zeros.values<uint8_t>(), host.zeros);

    const simt::Buffer codes("codes", w.codes.size(), Access::write_once),
        unpacked_scales("scales", scales, Access::write_once),
        zeros("zeros", w.zeros.size(), Access::write_once);
    ASSERT_TRUE(w4a16::run_unpack({w.shape, w4a16::layout.number, qweight.data<char>(),
                                   packed_scales.data<char>(), zeros_to},
                                  codes.data<uint8_t>(), unpacked_scales.data<char>(),
                                  w.shape.has_zeros ? zeros.data<uint8_t>() : nullptr, launch)
                    .ok());
    EXPECT_EQ(codes.values<uint8_t>(), w.codes);
    EXPECT_EQ(unpacked_scales.values<char>(), w.scales.bytes);
    EXPECT_EQ(zeros.values<uint8_t>(), w.zeros);
  }
}

TEST(MarlinPack, DeviceReportsBadCodesZerosAndColumns) {
  Rng rng = fresh_rng(40);
  const ScaledWeight shape{
      .n = 20, .k = 70, .group_size = 30, .elements = Elements::u4, .has_zeros = true};
  for (const int fault : {0, 1, 2, 3}) {
    Weight w = random_weight(shape, rng);
    std::vector<int32_t> perm(70);
    for (size_t j = 0; j < perm.size(); ++j) perm[j] = static_cast<int32_t>(69 - j);
    if (fault == 1) w.codes[700] = 16;
    if (fault == 2) w.zeros[11] = 255;
    if (fault == 3) perm[69] = 70;
    const w4a16::Geometry g(shape);
    const simt::Buffer codes("codes", w.codes), scales("scales", w.scales.bytes),
        zeros("zeros", w.zeros), columns("perm", perm);
    const PackedSizes sizes = w4a16::packed_sizes(shape);
    const simt::Buffer qweight("packed", static_cast<size_t>(sizes.qweight_bytes),
                               Access::write_once),
        packed_scales("packed scales", static_cast<size_t>(sizes.scales) * 4, Access::write_once),
        packed_zeros("packed zeros", static_cast<size_t>(sizes.zeros), Access::write_once);
    simt::Buffer bad("bad", 8, Access::read_write);
    bad.fill(0);
    const ScaledView view{shape,
                          {codes.data<char>(), CodeOrder::plain, columns.data<int32_t>()},
                          scales.data<char>(),
                          zeros.data<uint8_t>()};
    ASSERT_TRUE(
        w4a16::run_pack(
            view, {qweight.data<char>(), packed_scales.data<char>(), packed_zeros.data<uint8_t>()},
            bad.data<uint32_t>(), Emulator())
            .ok());
    EXPECT_EQ(bad.values<uint32_t>(), (std::vector<uint32_t>{fault == 1 || fault == 3, fault == 2}))
        << fault;
  }
}

}  // namespace
}  // namespace qcore
