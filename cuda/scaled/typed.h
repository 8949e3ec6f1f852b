// The arguments of a product with the types of its elements, on which the kernels are templates.
#pragma once

#include "qcore/fp8.h"
#include "qcore/int8.h"

namespace qcore::scaled {

inline Int8Args int8_args(const ScaledArgs& a) {
  return {.m = a.m,
          .n = a.n,
          .k = a.k,
          .experts = a.experts,
          .offsets = a.offsets,
          .x = a.x_as<int8_t>(),
          .x_stride = a.x_stride,
          .floats = a.floats,
          .symmetric = a.symmetric,
          .weight = a.weight_as<int8_t>(),
          .x_scale = a.x_scale,
          .x_scales = a.x_scales,
          .w_scale = a.w_scale,
          .w_scales = a.w_scales,
          .x_zero = a.x_zero,
          .w_sum = a.w_sum,
          .bias = a.bias,
          .bias_dtype = a.bias_dtype,
          .dtype = a.dtype,
          .y = a.y,
          .workspace = a.workspace};
}

inline Fp8Args fp8_args(const ScaledArgs& a) {
  return {.m = a.m,
          .n = a.n,
          .k = a.k,
          .x = a.x_as<uint8_t>(),
          .x_stride = a.x_stride,
          .x_type = float8_of(a.x_type),
          .floats = a.floats,
          .weight = a.weight_as<uint8_t>(),
          .w_type = float8_of(a.w_type),
          .x_scale = a.x_scale,
          .x_scales = a.x_scales,
          .w_scale = a.w_scale,
          .w_scales = a.w_scales,
          .bias = a.bias,
          .bias_dtype = a.bias_dtype,
          .dtype = a.dtype,
          .y = a.y,
          .workspace = a.workspace};
}

// f(Int8Args) or f(Fp8Args)
template <class F>
Status with_typed(const ScaledArgs& args, const F& f) {
  return args.integers() ? f(int8_args(args)) : f(fp8_args(args));
}

}  // namespace qcore::scaled
