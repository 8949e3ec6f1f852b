// The CUDA kernel that takes every product: no matrix units, any dtype (fp32 activations too), any
// strides, straight from the definition of the layout.
#pragma once

#include "kquant/layout.h"
#include "tile/scalars.cuh"

namespace qcore::kquant {

struct ReferenceParams {
  DType dtype;
  const void* x;
  int64_t x_stride;  // elements
  int64_t m;
  Geometry geometry;
  const void* weight;
  uint32_t values[4];  // of codes that name one: 16 signed bytes
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
        QCORE_UNROLL
        for (int t = 0; t < kTokens; ++t) {
          if (t >= tokens) break;
          sum[t] += w * load_element(p.dtype, p.x, (token + t) * p.x_stride + column);
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
    const Traits& t = g.traits;
    const int code = code_at(t, g, p.weight, n, column, GlobalLoad{});
    const int value =
        t.table ? static_cast<int8_t>(p.values[code / 4] >> (code % 4 * 8) & 0xff) : code - t.zero;
    const Halves halves = halves_at(t, g, p.weight, n, column / t.elements, GlobalLoad{});
    float d =
        t.bfloat_d ? ptx::to_float<ptx::Bfloat>(halves.d) : ptx::to_float<ptx::Half>(halves.d);
    float min = ptx::to_float<ptx::Half>(halves.min);
    if (t.scales != Scales::none) {
      const int scales = scales_at(t, g, p.weight, n, column, GlobalLoad{});
      const int shift = t.scales == Scales::pair ? 8 : 4;
      d *= static_cast<float>(t.scales == Scales::one ? scales - 128 : scales & ((1 << shift) - 1));
      min *= static_cast<float>(scales >> shift);
    }
    const float product = ptx::multiply(d, static_cast<float>(value));
    return t.has_min ? product + min : product;
  }
};

}  // namespace qcore::kquant
