// The product that takes everything, for the reference kernels of packed weights: no matrix units,
// any dtype (fp32 activations too), any strides.
#pragma once

#include "tile/scalars.cuh"

namespace qcore::tile {

// What its kernels derive from: a warp computes one column of y for 8 tokens at a time; its lanes
// share K.
struct ReferenceShape {
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 1;
  static constexpr int kTokens = 8;

  static int blocks(int64_t n) { return static_cast<int>(ceil_div(n, kThreads / 32)); }
};

// y = x * weight^T + bias, of `p` with x [m, k], its stride, y [m, n], bias and their dtype.
// weight(n, column) is an element; source(column) the column of x that it meets, or one that x has
// not, which gives NaN.
template <class Params, class Weight, class Source>
QCORE_DEVICE void reference_product(const Params& p, int64_t n_total, int64_t k,
                                    const Weight& weight, const Source& source) {
  constexpr int kTokens = ReferenceShape::kTokens, kColumns = ReferenceShape::kThreads / 32;
  const int lane = ptx::thread_index() % 32;
  const int64_t n = static_cast<int64_t>(ptx::block_index()) * kColumns + ptx::thread_index() / 32;
  if (n >= n_total) return;
  for (int64_t token = 0; token < p.m; token += kTokens) {
    const int tokens = static_cast<int>(min(static_cast<int64_t>(kTokens), p.m - token));
    float sum[kTokens] = {};
    for (int64_t column = lane; column < k; column += 32) {
      const float w = weight(n, column);
      const int64_t from = source(column);
      const bool exists = from >= 0 && from < k;
      QCORE_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        if (t >= tokens) break;
        sum[t] += w * (exists ? load_element(p.dtype, p.x, (token + t) * p.x_stride + from)
                              : ptx::float_from_bits(0x7fffffffu));
      }
    }
    QCORE_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      QCORE_UNROLL
      for (int mask = 16; mask > 0; mask /= 2) sum[t] += ptx::shuffle_xor(sum[t], mask);
      if (lane == t && t < tokens) {
        const float bias = p.bias ? load_element(p.dtype, p.bias, n) : 0.0f;
        store_element(p.dtype, p.y, (token + t) * n_total + n, sum[t] + bias);
      }
    }
  }
}

}  // namespace qcore::tile
