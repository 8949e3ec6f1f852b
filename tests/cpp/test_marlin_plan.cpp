// The choice of variant, blocks and splits: plain host code.
#include <gtest/gtest.h>

#include "gpu_cases.h"

namespace qcore {
namespace {

using namespace testing;
using marlin::DeviceLimits;
using marlin::Plan;

TEST(MarlinPlan, FillsTheGpuAndFitsItsSharedMemory) {
  for (const int64_t m : {1, 8, 9, 16, 32, 33, 64, 128, 1024, 4096}) {
    for (const int64_t n : {1, 1024, 4096, 14336, 28672}) {
      for (const int bits : {4, 8}) {
        for (const DeviceLimits& limits :
             {DeviceLimits{132, 227 << 10}, DeviceLimits{108, 163 << 10}, {128, 99 << 10}}) {
          W4A16Args args{.m = m, .dtype = DType::f16};
          args.weight.shape = {.n = n, .k = 4096, .group_size = 128, .bits = bits};
          args.weight.shape.scale_dtype = DType::f16;
          args.x_stride = 4096;
          const Plan plan = marlin::choose_plan(args, limits);
          EXPECT_LE(plan.shared_bytes, limits.shared_bytes);
          EXPECT_GE(plan.variant.token_tiles * 8 * plan.token_blocks, m);
          EXPECT_GE(plan.split_chunks * plan.splits, 4096 / marlin::chunk_columns(bits));
          if (n >= 4096) {
            EXPECT_GE(plan.slices * plan.token_blocks * plan.splits, limits.multiprocessors / 2)
                << "m=" << m << " n=" << n << " bits=" << bits << ": " << describe(plan);
          }
          args.batch_invariant = true;
          const Plan invariant = marlin::choose_plan(args, limits);
          EXPECT_EQ(invariant.variant.warps_k, 1);
          args.m = 1;
          EXPECT_EQ(marlin::choose_plan(args, limits).splits, invariant.splits);
        }
      }
    }
  }
}

TEST(MarlinPlan, ReadsActivationsInPlaceWhereItCan) {
  alignas(16) char x[64];
  W4A16Args args{.m = 2, .dtype = DType::f16, .x = x, .x_stride = 256};
  args.weight.shape = {.n = 64, .k = 256, .group_size = 128};
  const auto gathers = [&] { return marlin::make_plan(args, {1, 1}, 1).gather; };
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
  const int32_t perm = 0;
  args.perm = &perm;
  EXPECT_TRUE(gathers());
}

}  // namespace
}  // namespace qcore
