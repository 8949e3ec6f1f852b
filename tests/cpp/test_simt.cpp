#include <gtest/gtest.h>

#include "ptx.cuh"
#include "simt/simt.h"

namespace qcore {
namespace {

TEST(Simt, MmaOfAllLanesSums) {
  simt::Buffer d("d", 256 * 16, simt::Access::write_once);
  constexpr int kSteps = 2000;
  simt::launch({.threads = 256, .shared_bytes = 256 * 16}, [&] {
    const int t = ptx::thread_index();
    const auto at = static_cast<uint32_t>(16 * t);
    ptx::store_shared<ptx::Vec16>(at, {{0x3c003c00, 0x3c003c00, 0x3c003c00, 0x3c003c00}});
    ptx::sync_block();
    uint32_t a[4], b[2] = {0x3c003c00, 0x3c003c00};
    float sum[4] = {};
    ptx::ldmatrix_x4(a, at);
    for (int i = 0; i < kSteps; ++i) ptx::mma_16x8x16<ptx::Half>(sum, a, b);
    for (int i = 0; i < 4; ++i) ptx::store_global(d.data<float>() + 4 * t + i, sum[i]);
  });
  for (const float v : d.values<float>()) ASSERT_EQ(v, 16.f * kSteps);
}

}  // namespace
}  // namespace qcore
