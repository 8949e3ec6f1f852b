// Op "int8": 8-bit integer activations times an 8-bit integer weight, both canonical: no packed
// layout exists.
#pragma once

#include <cstdint>

#include "qcore/executor.h"
#include "qcore/export.h"
#include "qcore/quantize.h"
#include "qcore/scaled.h"
#include "qcore/status.h"
#include "qcore/types.h"

namespace QCORE_API qcore {

// The largest K: sums of K products of up to 2^14 fit into 32 bits.
inline constexpr int64_t kInt8MaxK = (int64_t{1} << 17) - 1;

// y[m, n] = round(fma(v * x_scale[m], w_scale[n], bias[n])),
//       v = float32(sum over k of x[m, k] * w[n, k]  -  x_zero[m] * w_sum[n])
// where the integers are exact and v is their one rounding, so that all rows give the same bits.
// Without bias y = round((v * x_scale[m]) * w_scale[n]).
//
// With `floats` x is quantized first, as quantize_int8() does it, to the same bits: with x_scale
// null dynamically row by row, else by the given x_scale and x_zero.
//
// With E experts the weight is [E, N, K] and what belongs to it has E in front as well; each row of
// x meets the weight of its expert, and gives the bits of a call with that weight alone.
struct Int8Args {
  int64_t m = 0, n = 0, k = 0;
  int64_t experts = 1;
  // [E + 1] in the memory of the executor's device: rows offsets[e] .. offsets[e + 1] - 1 of x and
  // y belong to expert e, so that they ascend from 0 to M. Null if the weight has but one expert.
  const int32_t* offsets = nullptr;
  const int8_t* x = nullptr;  // [M, K], rows `x_stride` elements apart, each row contiguous
  int64_t x_stride = 0;
  FloatRows floats = {};  // instead of x, if floats.x is not null; its m and k are those above
  bool symmetric = true;  // how to quantize floats
  const int8_t* weight = nullptr;           // [N, K] or [E, N, K], contiguous
  const float* x_scale = nullptr;           // [1] or [M]
  Granularity x_scales = Granularity::row;  // tensor or row; of x_zero as well
  const float* w_scale = nullptr;           // [1] or [N]; of experts [E] or [E, N]
  Granularity w_scales = Granularity::row;
  const int32_t* x_zero = nullptr;  // as many as x_scale, in [-128, 127]; null: zeros
  // [N] or [E, N], sums over K of the weight; null: found in the call
  const int32_t* w_sum = nullptr;
  const void* bias = nullptr;  // [N] or [E, N], or null
  DType bias_dtype = DType::f32;
  DType dtype = DType::f32;   // of y
  void* y = nullptr;          // [M, N], contiguous
  void* workspace = nullptr;  // see int8_workspace_bytes(); CPU rows need none

  constexpr bool empty() const { return m == 0 || n == 0; }  // y has no elements
  operator ScaledArgs() const;
};

struct Int8 : Scaled {
  static constexpr const char* kName = "int8";
};

// Selects the row for the problem, checks the arguments and runs it.
Status int8_gemm(const Int8Args& args, const Executor& executor);

// How much memory of the executor's device the call above needs at args.workspace, 256-byte
// aligned. It must be the call's own until the stream is done with it.
Status int8_workspace_bytes(const Int8Args& args, const Executor& executor, int64_t& bytes);

}  // namespace QCORE_API qcore
