// The row that takes every problem on every machine: one product at a time, sums in double.
#include <algorithm>
#include <array>

#include "cpu/quantize/kernels.h"
#include "cpu/scaled/kernels.h"
#include "numerics/float16.h"
#include "numerics/float8.h"
#include "numerics/float_mode.h"

namespace qcore::reference {
namespace {

using Table = std::array<float, 256>;

Table values_of(Float8 type) {
  Table table;
  for (size_t i = 0; i < table.size(); ++i) {
    table[i] = f32_from_float8(type, static_cast<uint8_t>(i));
  }
  return table;
}

struct Call {
  const ScaledArgs& args;
  Table x, w;
  int64_t blocks;  // of K, one if the scales are no blocks

  float x_scale(int64_t m, int64_t b) const {
    if (args.x_scales == Granularity::block) return args.x_scale[m * blocks + b];
    return args.x_scale[args.x_scales == Granularity::row ? m : 0];
  }
  float w_scale(int64_t n, int64_t b) const {
    if (args.w.granularity == Granularity::block) return args.w_scale[n / kScaleBlock * blocks + b];
    return args.w_scale[args.w.granularity == Granularity::row ? n : 0];
  }

  void run(int64_t n) const {
    const uint8_t* row = args.weight_as<uint8_t>() + n * args.w.k;
    const int64_t width = blocks == 1 ? args.w.k : kScaleBlock;
    for (int64_t m = 0; m < args.m; ++m) {
      const uint8_t* xm = args.x_as<uint8_t>() + m * args.x_stride;
      double total = 0;
      for (int64_t b = 0; b < blocks; ++b) {
        double sum = 0;
        for (int64_t k = b * width; k < std::min(args.w.k, (b + 1) * width); ++k) {
          sum += double{x[xm[k]]} * double{w[row[k]]};
        }
        total += sum * x_scale(m, b) * w_scale(n, b);
      }
      if (args.bias) total += load_scalar(args.bias_dtype, args.bias, n);
      store_scalar(args.dtype, args.y, m * args.w.n + n, static_cast<float>(total));
    }
  }
};

Status gemm(const ScaledArgs& args, const Executor& executor) {
  const int64_t blocks = args.x_scales == Granularity::block ? ceil_div(args.w.k, kScaleBlock) : 1;
  const Call call{args, values_of(float8_of(args.x_type)), values_of(float8_of(args.w.elements)),
                  blocks};
  executor.parallel.for_range(args.w.n, 16, [&](int64_t begin, int64_t end) {
    const ExactSubnormals mode;
    for (int64_t n = begin; n < end; ++n) call.run(n);
  });
  return {};
}

}  // namespace

Status fp8_gemm(const ScaledArgs& args, const Executor& executor) {
  return from_floats(args, executor, {quantize_int8, quantize_fp8}, gemm);
}

}  // namespace qcore::reference
