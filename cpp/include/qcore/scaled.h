// The family of products of 8-bit activations and an 8-bit weight, both canonical: no packed layout
// exists. What an operand is made of is its elements and which of them share a scale. Ops "int8"
// and "fp8" (int8.h, fp8.h) are its schemas.
#pragma once

#include <cstdint>

#include "qcore/executor.h"
#include "qcore/export.h"
#include "qcore/formats.h"
#include "qcore/kernel.h"
#include "qcore/quantize.h"
#include "qcore/status.h"
#include "qcore/types.h"

namespace QCORE_API qcore {

// Both operands hold integers, or both hold floats, maybe of different types; what is computed for
// them is said in int8.h and fp8.h.
struct ScaledArgs {
  int64_t m = 0;
  // Of one scale, one for each row or block; more experts than one are of integers only.
  ScaledWeight w = {.elements = Elements::s8, .granularity = Granularity::row};
  const int32_t* offsets = nullptr;
  Elements x_type = Elements::s8;
  const void* x = nullptr;  // [M, K], rows `x_stride` elements apart, each row contiguous
  int64_t x_stride = 0;
  FloatRows floats = {};  // instead of x, if floats.x is not null; its m and k are those above
  bool symmetric = true;  // how to quantize floats to integers
  const void* weight = nullptr;  // [N, K] or [E, N, K], contiguous
  const float* x_scale = nullptr;
  Granularity x_scales = Granularity::row;
  const float* w_scale = nullptr;
  const int32_t* x_zero = nullptr;  // of integers
  const int32_t* w_sum = nullptr;   // of integers
  const void* bias = nullptr;       // [N] or [E, N], or null
  DType bias_dtype = DType::f32;
  DType dtype = DType::f32;   // of y
  void* y = nullptr;          // [M, N], contiguous
  void* workspace = nullptr;  // see scaled_workspace_bytes(); CPU rows need none

  constexpr bool empty() const { return m == 0 || w.n == 0; }  // y has no elements
  constexpr bool integers() const { return x_type == Elements::s8; }
  // How floats are quantized before the product, and whether that finds zero points.
  constexpr Granularity floats_scales() const {
    if (x_scale) return x_scales;
    return w.granularity == Granularity::block ? Granularity::block : Granularity::row;
  }
  constexpr bool finds_zeros() const { return floats.x && integers() && !symmetric && !x_scale; }
  // int8_t or uint8_t (bits of floats).
  template <class T>
  const T* x_as() const {
    return static_cast<const T*>(x);
  }
  template <class T>
  const T* weight_as() const {
    return static_cast<const T*>(weight);
  }
};

// What a row may look at before it says yes.
struct ScaledProblem {
  Device device = Device::cpu;
  int sm = 0;  // compute capability of the GPU; 0: not known yet
  int64_t m = 0;
  ScaledWeight weight = {.elements = Elements::s8, .granularity = Granularity::row};
  Elements x_type = Elements::s8;
  Granularity x_scales = Granularity::row;
  DType dtype = DType::f32;  // of y
  bool floats = false;
  // x, unless it is floats, the weight and all their rows start at multiples of 16 bytes.
  bool aligned = true;
};

// What the ops of the family have in common; each adds its name.
struct Scaled {
  using Args = ScaledArgs;
  using Problem = ScaledProblem;
  using Layout = qcore::Layout;
};

// Checks the arguments, selects the row for the problem and runs it.
Status scaled_gemm(const ScaledArgs& args, const Executor& executor);

// How much memory of the executor's device the call above needs at args.workspace, 256-byte
// aligned. It must be the call's own until the stream is done with it.
Status scaled_workspace_bytes(const ScaledArgs& args, const Executor& executor, int64_t& bytes);

}  // namespace QCORE_API qcore
