// The CUDA kernel that takes every problem: no matrix units, any K and any alignment.
#pragma once

#include "scaled/finish.cuh"

namespace qcore::scaled {

struct ReferenceParams {
  const uint8_t* x;
  int64_t x_stride;
  const uint8_t* weight;
  int64_t m, k;
  const float* x_blocks;  // [m, blocks], scales of blocks, or null
  const float* w_blocks;  // [ceil(n / 128), blocks]
  FinishParams finish;
};

// A number of 8 bits, in the type of its products.
template <class X>
QCORE_DEVICE auto number_of(uint32_t bits) {
  if constexpr (std::is_same_v<X, ptx::Int8>) {
    return static_cast<int32_t>(static_cast<int8_t>(bits));
  } else {
    return float_of(std::is_same_v<X, ptx::E5m2> ? Float8::e5m2 : Float8::e4m3, bits);
  }
}

// A warp computes one column of y, one token after the other; its lanes share K.
template <class X, class W>
struct Reference {
  using Params = ReferenceParams;
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 1;
  using Sum = std::conditional_t<std::is_same_v<X, ptx::Int8>, int32_t, float>;

  static int blocks(int64_t n) { return static_cast<int>(ceil_div(n, kThreads / 32)); }

  QCORE_DEVICE static void run(const Params& p) {
    const int64_t n =
        static_cast<int64_t>(ptx::block_index()) * (kThreads / 32) + ptx::thread_index() / 32;
    if (n >= p.finish.n) return;
    for (int64_t token = 0; token < p.m; ++token) {
      Sum sum[8] = {};
      sum[0] = dot(p, token, n);
      if (ptx::thread_index() % 32 == 0) finish(p.finish, token, static_cast<int>(n), 1, sum);
    }
  }

 private:
  static constexpr int kBlock = 128;

  QCORE_DEVICE static Sum dot(const Params& p, int64_t token, int64_t n) {
    const int64_t blocks = ceil_div(p.k, kBlock);
    Sum sum = 0;
    for (int64_t block = 0; block < blocks; ++block) {
      Sum part = 0;
      const int64_t first = block * kBlock, end = min(p.k, first + kBlock);
      for (int64_t column = first + ptx::thread_index() % 32; column < end; column += 32) {
        part += number_of<X>(ptx::load_global(p.x + token * p.x_stride + column)) *
                number_of<W>(ptx::load_global(p.weight + n * p.k + column));
      }
      if constexpr (std::is_same_v<Sum, float>) {
        if (p.x_blocks) {
          part *= ptx::load_global(p.x_blocks + token * blocks + block) *
                  ptx::load_global(p.w_blocks + n / kBlock * blocks + block);
        }
      }
      sum += part;
    }
    QCORE_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) sum += ptx::shuffle_xor(sum, mask);
    return sum;
  }
};

}  // namespace qcore::scaled
