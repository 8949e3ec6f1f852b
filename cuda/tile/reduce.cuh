// Adds the sums that several blocks made of one tile: always in the order of K, so that the result
// is the same whichever block ran first. A launch of its own instead of locks inside the product:
// nothing waits, and nothing has to be cleared before or after.
#pragma once

#include "tile/scalars.cuh"

namespace qcore::tile {

struct ReduceParams {
  const float* partial;  // [splits, m, width]
  int splits, m, n;
  int64_t width;  // n, padded to whole blocks
  const void* bias;
  void* y;
  bool vector_store;
};

// Eight columns of one token per thread.
template <class T>
struct Reduce {
  using Params = ReduceParams;
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 1;

  static int blocks(int64_t m, int64_t width) {
    return static_cast<int>(ceil_div(m * width / 8, kThreads));
  }

  QCORE_DEVICE static void run(const Params& p) {
    const int64_t index = static_cast<int64_t>(ptx::block_index()) * kThreads + ptx::thread_index();
    const int64_t eights = p.width / 8;
    if (index >= p.m * eights || index % eights * 8 >= p.n) return;
    float sum[8] = {};
    for (int split = 0; split < p.splits; ++split) {
      add_8_floats(p.partial + (split * static_cast<int64_t>(p.m) * eights + index) * 8, sum);
    }
    store_8<T>(p.y, p.bias, index / eights, static_cast<int>(index % eights * 8), p.n,
               p.vector_store, sum);
  }
};

}  // namespace qcore::tile
