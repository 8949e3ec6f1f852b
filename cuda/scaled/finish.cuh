// From sums of products to y: zero points, scales, bias and rounding; and the sum of the splits.
#pragma once

#include <type_traits>

#include "tile/pieces.cuh"

namespace qcore::scaled {

struct FinishParams {
  const float* x_scale;  // null: scales of blocks, which the sums hold already
  int x_step;            // 1: a scale (and zero point) for each token, 0: one
  const float* w_scale;  // null as x_scale
  int w_step;
  const int32_t* x_zero;  // null: none
  const int32_t* w_sum;
  const void* bias;  // [n] or null
  DType bias_dtype, dtype;
  void* y;  // [m, n]
  int n;
  bool vectors;  // y, bias, w_scale and w_sum may be accessed 8 elements at a time

  // The same for a weight [E, N, K], of which this expert is multiplied.
  QCORE_DEVICE FinishParams of_expert(int expert) const {
    FinishParams f = *this;
    const int64_t rows = static_cast<int64_t>(expert) * n;
    f.w_scale += w_step ? rows : expert;
    if (w_sum) f.w_sum += rows;
    if (bias) f.bias = static_cast<const char*>(bias) + rows * size_of(bias_dtype);
    return f;
  }
};

// y[token, column .. column + count), count up to 8. Exact integers are rounded to fp32
// once, after the zero point; what follows is one sequence of roundings, that of qcore/int8.h.
template <class Sum>
QCORE_DEVICE void finish(const FinishParams& f, int64_t token, int column, int count,
                         const Sum (&sum)[8]) {
  const bool vectors = f.vectors && count == 8;
  const float x_scale = f.x_scale ? ptx::load_global(f.x_scale + token * f.x_step) : 1.0f;
  float w_scale[8], bias[8], value[8];
  if (f.w_step) {
    load_8(DType::f32, f.w_scale, column, count, vectors, w_scale);
  } else {
    const float one = f.w_scale ? ptx::load_global(f.w_scale) : 1.0f;
    QCORE_UNROLL
    for (int j = 0; j < 8; ++j) w_scale[j] = one;
  }
  if (f.bias) load_8(f.bias_dtype, f.bias, column, count, vectors, bias);
  QCORE_UNROLL
  for (int j = 0; j < 8; ++j) value[j] = static_cast<float>(sum[j]);
  if constexpr (std::is_same_v<Sum, int32_t>) {
    if (f.x_zero) {
      const int64_t zero = ptx::load_global(f.x_zero + token * f.x_step);
      QCORE_UNROLL
      for (int j = 0; j < 8; ++j) {
        const int64_t w_sum = j < count ? ptx::load_global(f.w_sum + column + j) : 0;
        value[j] = ptx::to_float(sum[j] - zero * w_sum);
      }
    }
  }
  QCORE_UNROLL
  for (int j = 0; j < 8; ++j) {
    const float scaled = ptx::multiply(value[j], x_scale);
    value[j] = f.bias ? ptx::fma(scaled, w_scale[j], bias[j]) : ptx::multiply(scaled, w_scale[j]);
  }
  store_8(f.dtype, f.y, token * f.n + column, count, vectors, value);
}

// Sums of the splits, [splits, m, width]: width is n, padded to whole blocks.
struct ReduceParams {
  const void* partial;
  int splits, m;
  int64_t width;
  FinishParams finish;
};

// Four sums, moved as bits.
template <class Sum>
QCORE_DEVICE Sum sum_of_bits(uint32_t bits) {
  if constexpr (std::is_same_v<Sum, float>) {
    return ptx::float_from_bits(bits);
  } else {
    return static_cast<Sum>(bits);
  }
}
QCORE_DEVICE uint32_t bits_of_sum(float sum) {
  return ptx::bits_of(sum);
}
QCORE_DEVICE uint32_t bits_of_sum(int32_t sum) {
  return static_cast<uint32_t>(sum);
}

// Eight columns of one token for each thread of the grid and round, added in the order of K.
template <class Sum>
QCORE_DEVICE void reduce(const ReduceParams& p, int threads) {
  const int64_t eights = p.width / 8;
  const int64_t first = static_cast<int64_t>(ptx::block_index()) * threads + ptx::thread_index();
  const int64_t step = static_cast<int64_t>(ptx::block_count()) * threads;
  for (int64_t index = first; index < p.m * eights; index += step) {
    const int column = static_cast<int>(index % eights * 8);
    if (column >= p.finish.n) continue;
    Sum sum[8] = {};
    for (int split = 0; split < p.splits; ++split) {
      const ptx::Vec16* const from = static_cast<const ptx::Vec16*>(p.partial) +
                                     (split * static_cast<int64_t>(p.m) * eights + index) * 2;
      QCORE_UNROLL
      for (int v = 0; v < 2; ++v) {
        const ptx::Vec16 four = ptx::load_global(from + v);
        QCORE_UNROLL
        for (int j = 0; j < 4; ++j) sum[v * 4 + j] += sum_of_bits<Sum>(four.word[j]);
      }
    }
    finish(p.finish, index / eights, column, min(8, p.finish.n - column), sum);
  }
}

template <class Sum>
struct Reduce {
  using Params = ReduceParams;
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 1;

  static int blocks(const Params& p) {
    return static_cast<int>(ceil_div(p.m * p.width / 8, kThreads));
  }
  QCORE_DEVICE static void run(const Params& p) { reduce<Sum>(p, kThreads); }
};

}  // namespace qcore::scaled
