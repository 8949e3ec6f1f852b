// The CUDA kernel that takes every problem: no matrix units, any dtype (fp32 activations too), any
// strides, permutation and group size, straight from the definition of the layout.
#pragma once

#include "tile/scalars.cuh"
#include "w4a16/layout.h"

namespace qcore::w4a16 {

struct ReferenceParams {
  DType dtype, scale_dtype;
  const void* x;
  int64_t x_stride;  // elements
  int64_t m;
  Geometry geometry;
  const uint8_t* qweight;
  const void* scales;
  const uint8_t* zeros;  // null if symmetric
  int center;
  Elements elements;
  const int32_t* perm;
  const void* bias;
  void* y;
};

// A warp computes one column of y for 8 tokens at a time; its lanes share K.
struct Reference {
  using Params = ReferenceParams;
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 1;
  static constexpr int kTokens = 8;

  static int blocks(int64_t n) { return static_cast<int>(ceil_div(n, kThreads / 32)); }

  QCORE_DEVICE static void run(const Params& p) {
    const int lane = ptx::thread_index() % 32;
    const int64_t n =
        static_cast<int64_t>(ptx::block_index()) * (kThreads / 32) + ptx::thread_index() / 32;
    if (n >= p.geometry.n) return;
    for (int64_t token = 0; token < p.m; token += kTokens) {
      const int tokens = static_cast<int>(min(static_cast<int64_t>(kTokens), p.m - token));
      float sum[kTokens] = {};
      for (int64_t column = lane; column < p.geometry.k; column += 32) {
        const float w = weight(p, n, column);
        const int64_t source = p.perm ? ptx::load_global(p.perm + column) : column;
        const bool exists = source >= 0 && source < p.geometry.k;
        QCORE_UNROLL
        for (int t = 0; t < kTokens; ++t) {
          if (t >= tokens) break;
          // As in Gather: a permutation that names no column gives NaN.
          sum[t] += w * (exists ? load_element(p.dtype, p.x, (token + t) * p.x_stride + source)
                                : ptx::float_from_bits(0x7fffffffu));
        }
      }
      QCORE_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        QCORE_UNROLL
        for (int mask = 16; mask > 0; mask /= 2) sum[t] += ptx::shuffle_xor(sum[t], mask);
        if (lane == t && t < tokens) {
          const float bias = p.bias ? load_element(p.dtype, p.bias, n) : 0.0f;
          store_element(p.dtype, p.y, (token + t) * p.geometry.n + n, sum[t] + bias);
        }
      }
    }
  }

 private:
  QCORE_DEVICE static float weight(const Params& p, int64_t n, int64_t column) {
    const Geometry& g = p.geometry;
    const int code = unpack_code(g, p.qweight, n, column, GlobalLoad{});
    const int64_t parameter = g.parameter(n, column / g.group_size);
    const float scale = load_element(p.scale_dtype, p.scales, parameter);
    if (is_float(p.elements)) {
      return scale * float_of(float8_of(p.elements), static_cast<uint32_t>(code));
    }
    const int zero = p.zeros ? ptx::load_global(p.zeros + parameter) : p.center;
    return scale * static_cast<float>(code - zero);
  }
};

}  // namespace qcore::w4a16
