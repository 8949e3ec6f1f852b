// The CUDA kernels of the block formats, run by the emulator: the same source that nvcc compiles.
#include <gtest/gtest.h>

#include <cmath>

#include "emulator.h"
#include "kquant/run.h"
#include "kquant/variant.h"
#include "kquant_gpu_cases.h"

namespace qcore {
namespace {

using namespace testing;
using simt::Access;
using tile::DeviceLimits;
using tile::Plan;
using tile::VariantKey;

// Bytes that any file may hold, also infinite scales and NaN, and sizes around those of a tile.
TEST(KquantDequantize, GivesTheBitsOfTheCpu) {
  Rng rng = fresh_rng(61);
  for (const BlockFormat& format : block_formats()) {
    SCOPED_TRACE(format.name);
    const int64_t tile = 4096 / format.elements;
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const int64_t count =
          pick<int64_t>(rng, {1, 3, tile - 1, tile, tile + 1, 2 * tile + 5, uniform(rng, 1, tile)});
      const simt::Buffer blocks("blocks", random_bytes(count * format.bytes, rng));
      const size_t bytes = static_cast<size_t>(count * format.elements * size_of(dtype));
      const simt::Buffer out("out", bytes, Access::write_once);
      const Status status =
          kquant::run_dequantize(format, {blocks.data<char>(), count, dtype, out.data<char>()},
                                 Emulator(any_schedule(rng)));
      ASSERT_TRUE(status.ok()) << status.message();
      std::vector<char> expected(bytes);
      ASSERT_TRUE(
          decode_blocks(format, blocks.data<char>(), count, dtype, expected.data(), {}).ok());
      for (int64_t i = 0; i < count * format.elements; ++i) {
        const float want = load_scalar(dtype, expected.data(), i);
        const float got = load_scalar(dtype, out.data<char>(), i);
        if (std::isnan(want) && std::isnan(got)) continue;
        ASSERT_EQ(std::bit_cast<uint32_t>(want), std::bit_cast<uint32_t>(got))
            << name(dtype) << " count " << count << " at " << i;
      }
    }
  }
}

// One product with its memory on the emulated GPU. x lies `misaligned` elements behind a boundary
// of 256 bytes.
class KquantProblem {
 public:
  explicit KquantProblem(const KquantData& data, int64_t misaligned = 0)
      : x_("x", behind(data.x.bytes, misaligned * size_of(data.shape.dtype))),
        weight_("weight", data.pack(kquant::layout).data),
        bias_("bias", data.bias.bytes),
        args(data.args({data.shape.weight, kquant::layout.number, weight_.data<char>()}, nullptr)) {
    args.x = x_.data<char>() + misaligned * size_of(data.shape.dtype);
    if (args.bias) args.bias = bias_.data<char>();
  }

  Plan choose(const DeviceLimits& limits) const { return kquant::choose_plan(args, limits); }
  std::vector<char> multiply(const Plan& plan, const Schedule& schedule = {}) {
    return run(plan.workspace_bytes(), [&] {
      const Emulator launch(schedule);
      return args.dtype == DType::f16 ? kquant::run_gemm<ptx::Half>(args, plan, launch)
                                      : kquant::run_gemm<ptx::Bfloat>(args, plan, launch);
    });
  }
  std::vector<char> multiply_by_reference() {
    return run(0, [&] { return kquant::run_reference(args, Emulator()); });
  }

 private:
  template <class Launch>
  std::vector<char> run(int64_t workspace_bytes, const Launch& launch) {
    const int64_t count = args.m * args.weight.shape.n;
    const simt::Buffer y("y", static_cast<size_t>(count * size_of(args.dtype)), Access::write_once);
    const simt::Buffer workspace("workspace", static_cast<size_t>(workspace_bytes),
                                 Access::read_write);
    args.y = y.data<char>();
    args.workspace = workspace.data<char>();
    const Status status = launch();
    EXPECT_TRUE(status.ok()) << status.message();
    return y.values<char>();
  }

  static std::vector<char> behind(const std::vector<char>& bytes, int64_t gap) {
    std::vector<char> moved(static_cast<size_t>(gap), char(0xff));
    moved.insert(moved.end(), bytes.begin(), bytes.end());
    return moved;
  }

  simt::Buffer x_, weight_, bias_;

 public:
  KquantArgs args;
};

class Kquant : public ::testing::TestWithParam<BlockFormat> {
 protected:
  const BlockFormat& format() const { return *find_block_format(GetParam().name); }
};

TEST_P(Kquant, IsCloseToTheExactProduct) {
  Rng rng = fresh_rng(62);
  for (int i = 0; i < 25; ++i) {
    const KquantData data = random_data(kquant_gpu_case(format(), rng), rng);
    KquantProblem problem(data, pick<int64_t>(rng, {0, 0, 0, 1, 3}));
    const DeviceLimits limits{pick(rng, {1, 4, 16, 132}), pick(rng, {99 << 10, 227 << 10})};
    const Plan plan = problem.choose(limits);
    EXPECT_LE(plan.shared_bytes, limits.shared_bytes);
    expect_exact(data, problem.multiply(plan, any_schedule(rng)).data(), describe(plan));
    if (HasFailure()) return;
  }
}

// Every kernel that is built.
TEST_P(Kquant, EveryVariant) {
  Rng rng = fresh_rng(63);
  for (const VariantKey& variant : kquant::kVariants) {
    for (const DType dtype : {DType::f16, DType::bf16}) {
      KquantCase c{.weight = {&format(), uniform(rng, 40, 300),
                              format().elements == 256 ? 1024 : 32 * uniform(rng, 20, 40)},
                   .m = uniform(rng, 1, 20) + pick<int64_t>(rng, {0, 64}),
                   .dtype = dtype,
                   .bias = true,
                   .float_activations = true};
      const KquantData data = random_data(c, rng);
      KquantProblem problem(data);
      const Plan plan =
          kquant::make_plan(problem.args, variant, static_cast<int>(uniform(rng, 1, 3)));
      expect_exact(data, problem.multiply(plan, any_schedule(rng)).data(), describe(plan));
      if (HasFailure()) return;
    }
  }
}

// A basis vector returns one column of the weight, rounded once.
TEST_P(Kquant, OneHotReturnsOneColumnExactly) {
  Rng rng = fresh_rng(64);
  for (const DType dtype : {DType::f16, DType::bf16, DType::f32}) {
    KquantCase c = kquant_gpu_case(format(), rng);
    c.dtype = dtype;
    c.bias = false;
    c.m = uniform(rng, 1, 40);
    KquantData data = random_data(c, rng);
    std::vector<int64_t> column(static_cast<size_t>(c.m));
    for (int64_t m = 0; m < c.m; ++m) {
      const int64_t k = column[static_cast<size_t>(m)] = uniform(rng, 0, c.weight.k - 1);
      for (int64_t j = 0; j < c.weight.k; ++j)
        data.x.set(m * data.x_stride + j, j == k ? 1.0f : 0.0f);
    }
    KquantProblem problem(data);
    const std::vector<char> y =
        dtype == DType::f32 ? problem.multiply_by_reference()
                            : problem.multiply(problem.choose({pick(rng, {1, 64}), 227 << 10}));
    std::vector<float> weights(static_cast<size_t>(c.weight.n * c.weight.k));
    ASSERT_TRUE(decode_blocks(format(), data.blocks.data(), c.weight.n * c.weight.blocks_per_row(),
                              DType::f32, weights.data(), {})
                    .ok());
    for (int64_t m = 0; m < c.m; ++m) {
      const int64_t k = column[static_cast<size_t>(m)];
      for (int64_t n = 0; n < c.weight.n; ++n) {
        Buffer rounded(dtype, 1);
        rounded.set(0, weights[static_cast<size_t>(n * c.weight.k + k)]);
        ASSERT_EQ(load_scalar(dtype, y.data(), m * c.weight.n + n), rounded.get(0))
            << describe(c) << " m=" << m << " n=" << n << " k=" << k;
      }
    }
  }
}

TEST_P(Kquant, ReferenceIsCloseToTheExactProduct) {
  Rng rng = fresh_rng(65);
  for (int i = 0; i < 3; ++i) {
    KquantCase c = kquant_gpu_case(format(), rng);
    c.dtype = pick(rng, {DType::f32, DType::f16, DType::bf16});
    c.m = std::min<int64_t>(c.m, 12);
    c.weight.n = std::min<int64_t>(c.weight.n, 65);
    const KquantData data = random_data(c, rng);
    expect_exact(data, KquantProblem(data).multiply_by_reference().data(), "reference");
    if (HasFailure()) return;
  }
}

TEST_P(Kquant, DevicePacksTheBytesOfTheHost) {
  Rng rng = fresh_rng(66);
  const Emulator launch({simt::Order::shuffled, 1, 2});
  for (int i = 0; i < 2; ++i) {
    const BlockShape shape{&format(), uniform(rng, 1, 70), format().elements * uniform(rng, 1, 5)};
    const std::vector<uint8_t> bytes = random_bytes(shape.bytes(), rng);
    std::vector<uint8_t> host(static_cast<size_t>(kquant::packed_bytes(shape)), uint8_t{0xcc});
    ASSERT_TRUE(pack(kquant::layout, shape, bytes.data(), host.data(), {}).ok());
    const simt::Buffer blocks("blocks", bytes);
    const simt::Buffer packed("packed", host.size(), Access::write_once);
    ASSERT_TRUE(kquant::run_pack(shape, blocks.data<char>(), packed.data<char>(), launch).ok());
    EXPECT_EQ(packed.values<uint8_t>(), host);
    const simt::Buffer back("blocks", bytes.size(), Access::write_once);
    const PackedBlocks view{shape, kquant::layout.number, packed.data<char>()};
    ASSERT_TRUE(kquant::run_unpack(view, back.data<char>(), launch).ok());
    EXPECT_EQ(back.values<uint8_t>(), bytes);
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, Kquant, ::testing::ValuesIn(block_formats()),
                         [](const auto& with) { return std::string(with.param.name); });

const BlockFormat& any_format(Rng& rng) {
  return block_formats()[static_cast<size_t>(uniform(rng, 0, 14))];
}

TEST(KquantGemm, SameBitsInEveryOrderOfBlocks) {
  Rng rng = fresh_rng(67);
  for (int i = 0; i < 6; ++i) {
    KquantCase c = kquant_gpu_case(any_format(rng), rng);
    c.weight.n = 150;
    const KquantData data = random_data(c, rng);
    KquantProblem problem(data);
    const Plan plan =
        kquant::make_plan(problem.args, pick(rng, {VariantKey{1, 8}, {1, 2}, {2, 2}, {4, 1}}),
                          static_cast<int>(uniform(rng, 1, 5)));
    const std::vector<char> y = problem.multiply(plan);
    for (const simt::Order order : {simt::Order::descending, simt::Order::shuffled}) {
      EXPECT_EQ(y, problem.multiply(plan, {order, static_cast<uint32_t>(i), 4}));
    }
  }
}

// A batch that is cut so that the workspace stays small gives the same bits.
TEST(KquantGemm, PassesDoNotChangeTheResult) {
  Rng rng = fresh_rng(68);
  for (int i = 0; i < 6; ++i) {
    KquantCase c = kquant_gpu_case(any_format(rng), rng);
    c.m = uniform(rng, 20, 100);
    const KquantData data = random_data(c, rng);
    KquantProblem problem(data);
    Plan plan = kquant::make_plan(problem.args, {1, 2}, static_cast<int>(uniform(rng, 1, 3)));
    ASSERT_EQ(plan.tokens, c.m);
    const std::vector<char> whole = problem.multiply(plan);
    plan.tokens = static_cast<int>(uniform(rng, 1, 3)) * 8;
    EXPECT_EQ(whole, problem.multiply(plan)) << describe(c);
  }
}

TEST(KquantGemm, InfinityAndNaNStayInTheirRow) {
  Rng rng = fresh_rng(69);
  const BlockFormat& format = *find_block_format("Q4_K");
  KquantData data =
      random_data(KquantCase{.weight = {&format, 70, 512}, .m = 12, .dtype = DType::f16}, rng);
  data.x.set(3 * data.x_stride + 77, INFINITY);
  data.x.set(9 * data.x_stride + 300, NAN);
  KquantProblem problem(data);
  const std::vector<char> y = problem.multiply(problem.choose({8, 227 << 10}));
  for (int64_t i = 0; i < 12 * 70; ++i) {
    const int64_t m = i / 70;
    EXPECT_EQ(std::isfinite(load_scalar(DType::f16, y.data(), i)), m != 3 && m != 9) << m;
  }
}

TEST(KquantPlan, FillsTheGpuAndFitsItsSharedMemory) {
  for (const BlockFormat& format : block_formats()) {
    for (const int64_t m : {1, 8, 16, 32, 64, 1024}) {
      for (const int64_t n : {1, 1024, 4096, 14336}) {
        for (const DeviceLimits& limits :
             {DeviceLimits{132, 227 << 10}, DeviceLimits{108, 163 << 10}, {128, 99 << 10}}) {
          KquantArgs args{.m = m, .dtype = DType::f16, .x_stride = 4096};
          args.weight = {{&format, n, 4096}, kquant::layout.number, nullptr};
          const Plan plan = kquant::choose_plan(args, limits);
          SCOPED_TRACE(std::string(format.name) + " m=" + std::to_string(m) +
                       " n=" + std::to_string(n) + ": " + describe(plan));
          EXPECT_LE(plan.shared_bytes, limits.shared_bytes);
          EXPECT_GE(plan.variant.token_tiles * 8 * plan.token_blocks, m);
          EXPECT_GE(plan.variant.token_tiles * 8, std::min<int64_t>(m, 32));
          // Of ternary weights there is too little to share.
          if (n >= 4096 && 8 * format.bytes > 3 * format.elements) {
            EXPECT_GE(plan.slices * plan.token_blocks * plan.splits,
                      limits.multiprocessors * 45 / 100);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace qcore
