// The choice of variant, blocks and splits: plain host code.
#include <gtest/gtest.h>

#include "gpu_cases.h"

namespace qcore {
namespace {

using namespace testing;
using tile::DeviceLimits;
using tile::Plan;

TEST(MarlinPlan, FillsTheGpuAndFitsItsSharedMemory) {
  for (const int64_t m : {1, 8, 9, 16, 32, 33, 64, 128, 1024, 4096}) {
    for (const int64_t n : {1, 1024, 4096, 14336, 28672}) {
      for (const int bits : {4, 8}) {
        for (const DeviceLimits& limits :
             {DeviceLimits{132, 227 << 10}, DeviceLimits{108, 163 << 10}, {128, 99 << 10}}) {
          W4A16Args args{.m = m, .dtype = DType::f16};
          args.weight.shape = {
              .n = n, .k = 4096, .group_size = 128, .elements = unsigned_of(bits).value()};
          args.weight.shape.scale_dtype = DType::f16;
          args.x_stride = 4096;
          const Plan plan = w4a16::choose_plan(args, limits);
          EXPECT_LE(plan.shared_bytes, limits.shared_bytes);
          EXPECT_GE(plan.variant.token_tiles * 8 * plan.token_blocks, m);
          EXPECT_GE(plan.split_chunks * plan.splits, 4096 / w4a16::chunk_columns(bits));
          if (n >= 4096) {
            EXPECT_GE(plan.slices * plan.token_blocks * plan.splits,
                      limits.multiprocessors * 45 / 100)
                << "m=" << m << " n=" << n << " bits=" << bits << ": " << describe(plan);
          }
          args.batch_invariant = true;
          const Plan invariant = w4a16::choose_plan(args, limits);
          EXPECT_EQ(invariant.variant.warps_k, 1);
          args.m = 1;
          EXPECT_EQ(w4a16::choose_plan(args, limits).splits, invariant.splits);
        }
      }
    }
  }
}

TEST(MarlinPlan, EveryWeightHasAVariantOnSmallCards) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const int64_t group : {32, 64, 128, 4096}) {
      for (const DType scales : {DType::f16, DType::f32}) {
        for (const bool has_zeros : {false, true}) {
          for (const int64_t m : {1, 16, 32, 64, 4096}) {
            W4A16Args args{.m = m, .dtype = DType::f16, .x_stride = 4096};
            args.weight.shape = {.n = 4096,
                                 .k = 4096,
                                 .group_size = group,
                                 .elements = unsigned_of(bits).value(),
                                 .has_zeros = has_zeros,
                                 .scale_dtype = scales};
            const Plan plan = w4a16::choose_plan(args, {128, 99 << 10});
            EXPECT_LE(plan.shared_bytes, 99 << 10);
            if (m >= 32) {
              EXPECT_GE(plan.variant.token_tiles * 8, 32) << describe(plan);
            }
          }
        }
      }
    }
  }
}

TEST(MarlinPlan, WorkspaceStaysSmall) {
  for (const bool invariant : {false, true}) {
    for (const int64_t m : {1, 64, 4096, 100000}) {
      for (const int64_t n : {1024, 4096, 28672}) {
        W4A16Args args{
            .m = m, .dtype = DType::bf16, .x_stride = 8192, .batch_invariant = invariant};
        const int32_t perm = 0;
        args.perm = &perm;
        args.weight.shape = {.n = n, .k = 8192, .group_size = 128};
        const Plan plan = w4a16::choose_plan(args, {132, 227 << 10});
        EXPECT_LE(plan.workspace_bytes(), tile::kMostWorkspaceBytes * 11 / 10) << m << " " << n;
        EXPECT_GE(plan.tokens, std::min<int64_t>(m, 512));
      }
    }
  }
}

TEST(MarlinPlan, SaysWhatItCannotCount) {
  W4A16::Problem problem{.device = Device::cuda, .dtype = DType::bf16, .m = 1};
  problem.weight = {.n = 152064, .k = 8192, .group_size = 128, .elements = Elements::u8};
  EXPECT_TRUE(w4a16::supports(problem).ok());
  problem.m = 1000000;
  EXPECT_TRUE(w4a16::supports(problem).ok());
  problem.m = int64_t{1} << 30;
  EXPECT_FALSE(w4a16::supports(problem).ok());
  problem.m = 280000000;
  problem.weight = {.n = 8, .k = 12, .group_size = 12};
  EXPECT_FALSE(w4a16::supports(problem).ok());
  problem.m = 1;
  problem.dtype = DType::f32;
  EXPECT_NE(w4a16::supports(problem).message().find("fp32"), std::string::npos);
  problem.m = 0;  // packing, before any activations are known
  EXPECT_TRUE(w4a16::supports(problem).ok());
}

TEST(MarlinPlan, ReadsActivationsInPlaceWhereItCan) {
  alignas(16) char x[64];
  W4A16Args args{.m = 2, .dtype = DType::f16, .x = x, .x_stride = 256};
  args.weight.shape = {.n = 64, .k = 256, .group_size = 128};
  const auto gathers = [&] { return w4a16::make_plan(args, {1, 1}, 1).gather; };
  EXPECT_FALSE(gathers());
  args.x_stride = 264;
  EXPECT_FALSE(gathers());
  args.x_stride = 257;  // rows are not aligned
  EXPECT_TRUE(gathers());
  args.m = 1;  // one row has no stride
  EXPECT_FALSE(gathers());
  args.x = x + 2;
  EXPECT_TRUE(gathers());
  args.x = x;
  args.weight.shape.group_size = 100;  // padding moves columns
  EXPECT_TRUE(gathers());
  args.weight.shape.group_size = 256;
  EXPECT_FALSE(gathers());
  args.m = 3;
  args.x_stride = 256;
  EXPECT_FALSE(gathers());
  args.x_stride = int64_t{1} << 34;  // rows farther apart than 32 bits of pieces
  EXPECT_TRUE(gathers());
  args.x_stride = 256;
  const int32_t perm = 0;
  args.perm = &perm;
  EXPECT_TRUE(gathers());
}

}  // namespace
}  // namespace qcore
