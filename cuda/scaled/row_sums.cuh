// The sums over the rows of an int8 weight, which zero points of activations meet.
#pragma once

#include "ptx/bits8.cuh"
#include "tile/scalars.cuh"

namespace qcore::scaled {

struct SumRowsParams {
  const uint8_t* weight;  // [n, k]
  int64_t n, k;
  int32_t* sums;  // [n]
};

// A warp for each row in turn.
QCORE_DEVICE void sum_rows(const SumRowsParams& p) {
  const int lane = ptx::thread_index() % 32;
  constexpr int kRowsAtOnce = 8;
  const bool vectors = p.k % 16 == 0 && reinterpret_cast<uintptr_t>(p.weight) % 16 == 0;
  const int64_t first =
      static_cast<int64_t>(ptx::block_index()) * kRowsAtOnce + ptx::thread_index() / 32;
  for (int64_t row = first; row < p.n;
       row += static_cast<int64_t>(ptx::block_count()) * kRowsAtOnce) {
    const uint8_t* const from = p.weight + row * p.k;
    int32_t sum = 0;
    if (vectors) {
      for (int64_t column = lane * 16; column < p.k; column += 32 * 16) {
        const ptx::Vec16 bytes =
            ptx::load_global(reinterpret_cast<const ptx::Vec16*>(from + column));
        QCORE_UNROLL
        for (int w = 0; w < 4; ++w) sum = ptx::add_bytes(bytes.word[w], sum);
      }
    } else {
      for (int64_t column = lane; column < p.k; column += 32) {
        sum += static_cast<int8_t>(ptx::load_global(from + column));
      }
    }
    QCORE_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) sum += ptx::shuffle_xor(sum, mask);
    if (lane == 0) ptx::store_global(p.sums + row, sum);
  }
}

struct SumRows {
  using Params = SumRowsParams;
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 1;

  static int blocks(int64_t n) { return static_cast<int>(ceil_div(n, kThreads / 32)); }
  QCORE_DEVICE static void run(const Params& p) { sum_rows(p); }
};

}  // namespace qcore::scaled
