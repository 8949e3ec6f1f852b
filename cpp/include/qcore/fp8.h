// Op "fp8": activations times a weight, both of 8-bit floats and canonical: no packed layout
// exists.
#pragma once

#include <cstdint>

#include "qcore/executor.h"
#include "qcore/export.h"
#include "qcore/quantize.h"
#include "qcore/scaled.h"
#include "qcore/status.h"
#include "qcore/types.h"

namespace QCORE_API qcore {

// y[m, n] = round(sum over blocks b of K of (sum over k in b of x[m, k] * w[n, k])
//                 * x_scale[m, b] * w_scale[n, b]  +  bias[n])
// with products and sums in float32. Scales that do not depend on b are multiplied last.
//
// With `floats` x is quantized first, as quantize_fp8() does it, to x_type and to the same bits:
// with x_scale null dynamically, row by row (1x128 blocks if w_scales are blocks), else by x_scale.
struct Fp8Args {
  int64_t m = 0, n = 0, k = 0;
  const uint8_t* x = nullptr;  // [M, K], rows `x_stride` elements apart, each row contiguous
  int64_t x_stride = 0;
  Float8 x_type = Float8::e4m3;
  FloatRows floats = {};  // instead of x, if floats.x is not null; its m and k are those above
  const uint8_t* weight = nullptr;  // [N, K], contiguous
  Float8 w_type = Float8::e4m3;
  const float* x_scale = nullptr;  // [1], [M] or [M, ceil(K / 128)]
  Granularity x_scales = Granularity::row;
  const float* w_scale = nullptr;           // [1], [N] or [ceil(N / 128), ceil(K / 128)]
  Granularity w_scales = Granularity::row;  // blocks if and only if x_scales are
  const void* bias = nullptr;               // [N] or null
  DType bias_dtype = DType::f32;
  DType dtype = DType::f32;   // of y
  void* y = nullptr;          // [M, N], contiguous
  void* workspace = nullptr;  // see fp8_workspace_bytes(); CPU rows need none

  constexpr bool empty() const { return m == 0 || n == 0; }  // y has no elements
  operator ScaledArgs() const;
};

struct Fp8 : Scaled {
  static constexpr const char* kName = "fp8";
};

// Selects the row for the problem, checks the arguments and runs it.
Status fp8_gemm(const Fp8Args& args, const Executor& executor);

// How much memory of the executor's device the call above needs at args.workspace, 256-byte
// aligned. It must be the call's own until the stream is done with it.
Status fp8_workspace_bytes(const Fp8Args& args, const Executor& executor, int64_t& bytes);

}  // namespace QCORE_API qcore
