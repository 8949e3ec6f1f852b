// The row that takes every problem on every machine: one product at a time.
#include <cmath>

#include "cpu/quantize/kernels.h"
#include "cpu/scaled/kernels.h"
#include "cpu/schedule.h"
#include "numerics/float16.h"

namespace qcore::reference {
namespace {

int64_t dot(const int8_t* x, const int8_t* w, int64_t k) {
  int64_t sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += x[i] * w[i];
  return sum;
}

int64_t sum_of(const int8_t* w, int64_t k) {
  int64_t sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += w[i];
  return sum;
}

constexpr int64_t kGrain = 1 << 12;  // of multiply-adds

// Column n of y.
void run(const ScaledArgs& args, const RowBlock& rows, int64_t n) {
  const int8_t* w = args.weight_as<int8_t>() + n * args.w.k;
  const float w_scale = args.w_scale[args.w.granularity == Granularity::tensor ? 0 : n];
  int64_t w_sum = 0;
  if (args.x_zero) w_sum = args.w_sum ? args.w_sum[n] : sum_of(w, args.w.k);
  for (int64_t m = rows.first; m < rows.first + rows.rows; ++m) {
    const int64_t at = args.x_scales == Granularity::tensor ? 0 : m;
    const int64_t zero = args.x_zero ? args.x_zero[at] : 0;
    const int64_t sum = dot(args.x_as<int8_t>() + m * args.x_stride, w, args.w.k) - zero * w_sum;
    const float scaled = static_cast<float>(sum) * args.x_scale[at];
    const float y = args.bias
                        ? std::fma(scaled, w_scale, load_scalar(args.bias_dtype, args.bias, n))
                        : scaled * w_scale;
    store_scalar(args.dtype, args.y, m * args.w.n + n, y);
  }
}

Status gemm(const ScaledArgs& args, const Executor& executor) {
  const Schedule schedule(args.m, args.w.experts, args.offsets, {.most = args.m}, args.m,
                          [](int64_t rows) { return rows; });
  schedule.for_each_pass([&](const Pass& pass) {
    const auto products = [&](const RowBlock& rows) {
      return Work{args.w.n, args.w.k * rows.rows};
    };
    pass.share(executor.parallel, kGrain, products,
               [&](const RowBlock& rows, int64_t begin, int64_t end) {
                 const ScaledArgs of_expert = args_of(args, rows.expert);
                 for (; begin < end; ++begin) run(of_expert, rows, begin);
               });
  });
  return {};
}

}  // namespace

Status int8_gemm(const ScaledArgs& args, const Executor& executor) {
  return from_floats(args, executor, {quantize_int8, quantize_fp8}, gemm);
}

}  // namespace qcore::reference
