// Op "kquant": activations times a weight in a block format of GGUF.
#pragma once

#include <cstdint>

#include "qcore/blocks.h"
#include "qcore/executor.h"
#include "qcore/export.h"
#include "qcore/kernel.h"
#include "qcore/layout.h"
#include "qcore/status.h"
#include "qcore/types.h"

namespace QCORE_API qcore {

// y[M, N] = x[M, K] * dequantize(weight)^T + bias.
//
// On the CPU x is quantized for the product, each row by itself and each block of K by itself: to 8
// bits with a float32 scale, max|x| / 127. What a block adds to y is then exact integers, two at
// most (products with codes under the integer scales of groups, and with their minima), each times
// two float32 factors; y is the float32 sum over the blocks in the order of K. A row of x that
// holds an infinity or NaN has only NaN in y; one whose |x| reaches 2^100 may overflow to them.
//
// With float_activations x stays as it is: elements of the weight as decode_blocks() gives them,
// float32 fused multiply-adds in the order of K. On a GPU that is so always, in another order.
//
// With a weight [E, N, K] each row of x meets that of its expert, and gives the bits of a call with
// that weight alone.
struct KquantArgs {
  int64_t m = 0;
  DType dtype = DType::f32;  // of x, bias and y
  const void* x = nullptr;   // [M, K], rows `x_stride` elements apart, each row contiguous
  int64_t x_stride = 0;
  PackedBlocks weight = {};
  const void* bias = nullptr;  // [N] or [E, N], or null
  void* y = nullptr;           // [M, N], contiguous
  bool float_activations = false;
  // [E + 1] in the memory of the executor's device: rows offsets[e] .. offsets[e + 1] - 1 of x and
  // y belong to expert e, so that they ascend from 0 to M. Null if the weight has but one expert.
  const int32_t* offsets = nullptr;
  void* workspace = nullptr;  // as many bytes as kquant_workspace_bytes() says; CPU rows need none

  constexpr bool empty() const { return m == 0 || weight.shape.n == 0; }  // y has no elements
};

struct Kquant {
  static constexpr const char* kName = "kquant";
  using Args = KquantArgs;
  using Problem = GemmProblem<BlockShape>;
  using Layout = BlockLayout;
};

// Selects the row for the problem, checks the arguments and runs it.
Status kquant_gemm(const KquantArgs& args, const Executor& executor);

// How much memory of the executor's device the call above needs at args.workspace, 256-byte
// aligned. It must be the call's own until the stream is done with it.
Status kquant_workspace_bytes(const KquantArgs& args, const Executor& executor, int64_t& bytes);

}  // namespace QCORE_API qcore
