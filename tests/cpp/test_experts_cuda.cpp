// Kernels of cuda/ compiled for the weights of several experts, run by the emulator: each row of x
// gives the bits of a product with its expert's weight alone. No row takes them yet.
#include <gtest/gtest.h>

#include <numeric>

#include "emulator.h"
#include "kquant/run.h"
#include "kquant_gpu_cases.h"
#include "scaled/run.h"
#include "simt/float8.h"
#include "w4a16_problem.h"

namespace qcore {
namespace {

using namespace testing;
using simt::Access;
using tile::Plan;
using tile::VariantKey;

template <class T>
void append(std::vector<T>& to, const auto& from) {
  to.insert(to.end(), from.begin(), from.end());
}

// How many rows of x each expert has: some have none.
std::vector<int64_t> random_rows(Rng& rng) {
  std::vector<int64_t> rows(static_cast<size_t>(uniform(rng, 2, 5)));
  for (int64_t& count : rows) count = pick<int64_t>(rng, {0, 1, 7, 8, 17, 40});
  rows.back() += 1;
  return rows;
}
std::vector<int32_t> offsets_of(const std::vector<int64_t>& rows) {
  std::vector<int32_t> offsets{0};
  for (const int64_t count : rows) {
    offsets.push_back(offsets.back() + static_cast<int32_t>(count));
  }
  return offsets;
}

// The result of run(args), which has m rows of n elements.
template <class Args, class Run>
std::vector<char> multiply(Args args, int64_t n, int64_t workspace_bytes, const Run& run) {
  const simt::Buffer y("y", static_cast<size_t>(args.m * n * size_of(args.dtype)),
                       Access::write_once);
  const simt::Buffer workspace("workspace", static_cast<size_t>(workspace_bytes),
                               Access::read_write);
  args.y = y.data<char>();
  args.workspace = workspace.data<char>();
  const Status status = run(args);
  EXPECT_TRUE(status.ok()) << status.message();
  return y.values<char>();
}

TEST(ExpertsW4A16, GiveTheBitsOfProductsWithOneExpert) {
  Rng rng = fresh_rng(95);
  for (const VariantKey& variant : w4a16::kVariants) {
    Case c = gpu_case(rng);
    c.perm = false;  // of several experts are not gathered yet
    c.gap = 0;
    const std::vector<int64_t> rows = random_rows(rng);
    std::vector<char> x, bias, qweight, scales, expected;
    std::vector<uint8_t> zeros;
    W4A16Args args;
    for (const int64_t count : rows) {
      c.m = count;
      const GemmData data = random_data(c, rng);
      const Packed packed = pack(w4a16::layout, data.weight);
      append(x, data.x.bytes);
      append(bias, data.bias.bytes);
      append(qweight, packed.qweight);
      append(scales, packed.scales);
      append(zeros, packed.zeros);
      args = data.args(packed.view, nullptr);
      if (count == 0) continue;
      MarlinProblem alone(data);
      append(expected, alone.multiply(w4a16::make_plan(alone.args, variant, 1)));
    }
    const simt::Buffer x_("x", x), bias_("bias", bias), qweight_("qweight", qweight),
        scales_("scales", scales), zeros_("zeros", zeros), offsets_("offsets", offsets_of(rows));
    args.m = std::accumulate(rows.begin(), rows.end(), int64_t{0});
    args.offsets = offsets_.data<int32_t>();
    args.x = x_.data<char>();
    args.weight.shape.experts = std::ssize(rows);
    args.weight.qweight = qweight_.data<char>();
    args.weight.scales = scales_.data<char>();
    if (args.weight.zeros) args.weight.zeros = zeros_.data<uint8_t>();
    if (args.bias) args.bias = bias_.data<char>();
    Plan plan = w4a16::make_plan(args, variant, 1);
    const int64_t workspace_bytes = plan.workspace_bytes();
    if (pick(rng, {false, true})) plan.tokens = 24;  // in several passes
    const auto y = multiply(args, c.weight.n, workspace_bytes, [&](const W4A16Args& with_memory) {
      const Emulator launch(any_schedule(rng));
      return c.dtype == DType::f16 ? w4a16::run_gemm<ptx::Half, true>(with_memory, plan, launch)
                                   : w4a16::run_gemm<ptx::Bfloat, true>(with_memory, plan, launch);
    });
    EXPECT_EQ(y, expected) << describe(c) << ", " << describe(plan) << ", experts " << rows.size();
  }
}

TEST(ExpertsKquant, GiveTheBitsOfProductsWithOneExpert) {
  Rng rng = fresh_rng(96);
  for (const BlockFormat& format : block_formats()) {
    const VariantKey variant = pick(rng, {VariantKey{1, 2}, {1, 8}, {2, 2}, {4, 1}, {8, 1}});
    KquantCase c = kquant_gpu_case(format, rng);
    c.gap = 0;
    const std::vector<int64_t> rows = random_rows(rng);
    std::vector<char> x, bias, expected;
    std::vector<uint8_t> weight;
    KquantArgs args;
    const auto run = [&]<bool kExperts>(const KquantArgs& problem) {
      const Plan plan = kquant::make_plan(problem, variant, 1);
      return multiply(problem, c.weight.n, plan.workspace_bytes(), [&](const KquantArgs& a) {
        const Emulator launch(any_schedule(rng));
        return c.dtype == DType::f16 ? kquant::run_gemm<ptx::Half, kExperts>(a, plan, launch)
                                     : kquant::run_gemm<ptx::Bfloat, kExperts>(a, plan, launch);
      });
    };
    for (const int64_t count : rows) {
      c.m = count;
      const KquantData data = random_data(c, rng);
      const PackedKquant packed = data.pack(kquant::layout);
      append(x, data.x.bytes);
      append(bias, data.bias.bytes);
      weight.resize(
          static_cast<size_t>(ceil_div(std::ssize(weight), expert_bytes(kquant::layout, c.weight)) *
                              expert_bytes(kquant::layout, c.weight)));
      append(weight, packed.data);
      args = data.args(packed.view, nullptr);
      if (count == 0) continue;
      const simt::Buffer x_("x", data.x.bytes), bias_("bias", data.bias.bytes),
          weight_("weight", packed.data);
      args.x = x_.data<char>();
      args.weight.data = weight_.data<char>();
      if (args.bias) args.bias = bias_.data<char>();
      append(expected, run.template operator()<false>(args));
    }
    const simt::Buffer x_("x", x), bias_("bias", bias), weight_("weight", weight),
        offsets_("offsets", offsets_of(rows));
    args.m = std::accumulate(rows.begin(), rows.end(), int64_t{0});
    args.offsets = offsets_.data<int32_t>();
    args.x = x_.data<char>();
    args.weight.shape.experts = std::ssize(rows);
    args.weight.data = weight_.data<char>();
    if (args.bias) args.bias = bias_.data<char>();
    EXPECT_EQ(run.template operator()<true>(args), expected) << describe(c);
  }
}

TEST(ExpertsInt8, GiveTheBitsOfProductsWithOneExpert) {
  Rng rng = fresh_rng(97);
  const scaled::Limits limits{8, 227 << 10, 228 << 10};
  for (const int tokens : {8, 16, 32, 64, 128}) {
    const int64_t n = pick<int64_t>(rng, {8, 100, 128, 200}), k = 16 * uniform(rng, 1, 20);
    const std::vector<int64_t> rows = random_rows(rng);
    const int64_t m = std::accumulate(rows.begin(), rows.end(), int64_t{0});
    const int64_t experts = std::ssize(rows);
    const auto bytes = [&](int64_t count) {
      std::vector<int8_t> values(static_cast<size_t>(count));
      for (int8_t& value : values) value = static_cast<int8_t>(uniform(rng, -128, 127));
      return values;
    };
    const auto floats = [&](int64_t count) {
      std::vector<float> values(static_cast<size_t>(count));
      for (float& value : values) value = static_cast<float>(uniform(rng, 1, 1000)) / 1000;
      return values;
    };
    std::vector<int32_t> zero(static_cast<size_t>(m));
    for (int32_t& value : zero) value = static_cast<int32_t>(uniform(rng, -128, 127));
    const Granularity w_scales = pick(rng, {Granularity::tensor, Granularity::row});
    const int64_t w_step = w_scales == Granularity::row ? n : 1;
    const simt::Buffer x("x", bytes(m * k)), weight("weight", bytes(experts * n * k)),
        x_scale("x_scale", floats(m)), w_scale("w_scale", floats(experts * w_step)),
        x_zero("x_zero", zero), bias("bias", floats(experts * n)),
        offsets("offsets", offsets_of(rows));
    Int8Args args{.m = m,
                  .n = n,
                  .k = k,
                  .experts = experts,
                  .offsets = offsets.data<int32_t>(),
                  .x = x.data<int8_t>(),
                  .x_stride = k,
                  .weight = weight.data<int8_t>(),
                  .x_scale = x_scale.data<float>(),
                  .w_scale = w_scale.data<float>(),
                  .w_scales = w_scales,
                  .x_zero = x_zero.data<int32_t>(),
                  .bias = bias.data<float>(),
                  .dtype = DType::f32};
    const auto run = [&]<bool kExperts>(const Int8Args& problem) {
      const scaled::Plan plan = scaled::make_plan(scaled::work_of(problem), tokens, 1, limits);
      return multiply(problem, n, scaled::workspace_of(problem, plan).bytes,
                      [&](const Int8Args& a) {
                        return scaled::run_gemm<kExperts>(a, plan, Emulator(any_schedule(rng)));
                      });
    };
    const std::vector<char> y = run.template operator()<true>(args);
    std::vector<char> expected;
    int64_t row = 0;
    for (int64_t e = 0; e < experts; ++e) {
      Int8Args one = args;
      one.m = rows[static_cast<size_t>(e)];
      one.experts = 1;
      one.offsets = nullptr;
      one.x += row * k;
      one.x_scale += row;
      one.x_zero += row;
      one.weight += e * n * k;
      one.w_scale += e * w_step;
      one.bias = bias.data<float>() + e * n;
      row += one.m;
      if (one.m > 0) append(expected, run.template operator()<false>(one));
    }
    EXPECT_EQ(y, expected) << "tokens " << tokens << ", n " << n << ", k " << k << ", experts "
                           << experts;
  }
}

}  // namespace
}  // namespace qcore
