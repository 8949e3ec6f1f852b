// Ops "quantize_int8" and "quantize_fp8": rows of floats to numbers of 8 bits with float32 scales.
#pragma once

#include <cstdint>

#include "qcore/elements.h"
#include "qcore/executor.h"
#include "qcore/export.h"
#include "qcore/kernel.h"
#include "qcore/status.h"
#include "qcore/types.h"

namespace QCORE_API qcore {

// Rows of floats. With norm_weight, RMSNorm comes first, in float32 and not rounded to the dtype in
// between:
//   x := (x * (1 / sqrt(sum(x^2) / K + norm_eps))) * norm_weight
// The sum is taken in 16 lanes: lane j adds x[k]^2 for k = j, j + 16, ... by fused multiply-adds,
// then lane j adds lane j + 8, j + 4, j + 2, j + 1. (CUDA rows take an order of their own.)
struct FloatRows {
  int64_t m = 0, k = 0;
  DType dtype = DType::f32;
  const void* x = nullptr;  // [M, K], rows `stride` elements apart, each row contiguous
  int64_t stride = 0;
  const void* norm_weight = nullptr;  // [K] or null
  DType norm_dtype = DType::f32;      // of norm_weight
  float norm_eps = 1e-6f;
};

// x is about scale * (q - zero). All in float32, rne: round to nearest even.
//   symmetric:   scale = max|x| / 127,  zero = 0
//   asymmetric:  lo = min(x, 0), hi = max(x, 0), scale = (hi - lo) / 255,
//                zero = clamp(rne(-128 - lo / scale))
//   q = clamp(rne(x / scale) + zero),  clamp to [-128, 127]
// A scale of 0 is replaced by 1. One that is not finite, because an x is not or because hi - lo
// overflows, is replaced by NaN: what is multiplied with it becomes NaN. A NaN is clamped to the
// lower bound, in q as in zero; with a given scale that is all that happens to it.
struct QuantizeInt8Args {
  FloatRows x;
  bool symmetric = true;
  Granularity granularity = Granularity::row;  // tensor or row
  const float* given_scale = nullptr;          // null: from x; else [1] or [M], by granularity
  const int32_t* given_zero = nullptr;         // with given_scale, if asymmetric; in [-128, 127]
  int8_t* q = nullptr;                         // [M, K], contiguous
  float* scale = nullptr;                      // [1] or [M], that used; null: not wanted
  int32_t* zero = nullptr;                     // the same; null if symmetric
  void* workspace = nullptr;  // see quantize_int8_workspace_bytes(); CPU rows need none

  constexpr bool empty() const { return x.m == 0; }
};

// scale = max|x| / max_of(type), 1 if that is 0; an infinity or NaN in x gives one in scale.
//   q = convert(clamp(x / scale, -max, max)), to nearest even; NaN stays NaN, of any sign
// which are the bits of torch's (x.float() / scale).clamp(-max, max).to(type).
struct QuantizeFp8Args {
  FloatRows x;
  Float8 type = Float8::e4m3;
  Granularity granularity = Granularity::row;
  const float* given_scale = nullptr;  // null: from x; else [1] or [M], by granularity
  uint8_t* q = nullptr;                // [M, K], contiguous
  float* scale = nullptr;              // [1], [M] or [M, ceil(K / 128)]; null: not wanted
  void* workspace = nullptr;           // see quantize_fp8_workspace_bytes(); CPU rows need none

  constexpr bool empty() const { return x.m == 0; }
};

// What a row may look at before it says yes.
struct QuantizeProblem {
  Device device = Device::cpu;
  int sm = 0;  // compute capability of the GPU; 0: not known yet
  int64_t m = 0, k = 0;
  DType dtype = DType::f32;
  Granularity granularity = Granularity::row;
  bool given_scale = false;
  bool norm = false;
  bool aligned = true;  // x, norm_weight and q and all their rows start at multiples of 16 bytes
};

struct QuantizeInt8 {
  static constexpr const char* kName = "quantize_int8";
  using Args = QuantizeInt8Args;
  using Problem = QuantizeProblem;
  using Layout = qcore::Layout;
};

struct QuantizeFp8 {
  static constexpr const char* kName = "quantize_fp8";
  using Args = QuantizeFp8Args;
  using Problem = QuantizeProblem;
  using Layout = qcore::Layout;
};

// Select the row for the problem, check the arguments and run it.
Status quantize_int8(const QuantizeInt8Args& args, const Executor& executor);
Status quantize_fp8(const QuantizeFp8Args& args, const Executor& executor);

// How much memory of the executor's device the calls above need at args.workspace, 256-byte
// aligned. It must be the call's own until the stream is done with it.
Status quantize_int8_workspace_bytes(const QuantizeInt8Args& args, const Executor& executor,
                                     int64_t& bytes);
Status quantize_fp8_workspace_bytes(const QuantizeFp8Args& args, const Executor& executor,
                                    int64_t& bytes);

}  // namespace QCORE_API qcore
