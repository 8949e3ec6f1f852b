// Op "w4a16": float activations times a weight of integer codes (int_group).
#pragma once

#include <cstdint>

#include "qcore/executor.h"
#include "qcore/export.h"
#include "qcore/formats.h"
#include "qcore/kernel.h"
#include "qcore/layout.h"
#include "qcore/status.h"
#include "qcore/types.h"

namespace QCORE_API qcore {

// y[M, N] = x[M, perm] * dequantize(weight)^T + bias, accumulated in fp32.
//
// With a weight [E, N, K] each row of x meets that of its expert, and gives the bits of a call with
// that weight alone.
struct W4A16Args {
  int64_t m = 0;
  DType dtype = DType::f32;  // of x, bias and y
  const void* x = nullptr;   // [M, K], rows `x_stride` elements apart, each row contiguous
  int64_t x_stride = 0;
  PackedScaled weight = {};
  // [K] or [E, K], or null; column j of the weight meets x[:, perm[j]]
  const int32_t* perm = nullptr;
  const void* bias = nullptr;  // [N] or [E, N], or null
  void* y = nullptr;           // [M, N], contiguous
  // The result of a row shall not depend on M. CPU rows keep this promise always.
  bool batch_invariant = false;
  // [E + 1] in the memory of the executor's device: rows offsets[e] .. offsets[e + 1] - 1 of x and
  // y belong to expert e, so that they ascend from 0 to M. Null if the weight has but one expert.
  const int32_t* offsets = nullptr;
  void* workspace = nullptr;  // as many bytes as w4a16_workspace_bytes() says; CPU rows need none

  constexpr bool empty() const { return m == 0 || weight.shape.n == 0; }  // y has no elements
};

struct W4A16 {
  static constexpr const char* kName = "w4a16";
  using Args = W4A16Args;
  using Problem = GemmProblem<ScaledWeight>;
  using Layout = ScaledLayout;
};

// Selects the row for the problem, checks the arguments and runs it.
Status w4a16_gemm(const W4A16Args& args, const Executor& executor);

// How much memory of the executor's device the call above needs at args.workspace, 256-byte
// aligned. It must be the call's own until the stream is done with it.
Status w4a16_workspace_bytes(const W4A16Args& args, const Executor& executor, int64_t& bytes);

}  // namespace QCORE_API qcore
