// What the ops on canonical tensors share: quantize_int8, quantize_fp8, int8_gemm, fp8_gemm and
// their fused forms.
#pragma once

#include <optional>
#include <vector>

#include "result.h"

namespace qcore::binding {

// Contiguous scales or zero points, and how many there are. An absent tensor gives null.
struct ScaleView {
  std::optional<Tensor> tensor;
  Granularity kind = Granularity::row;

  template <class T>
  const T* data() const {
    return tensor ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
  }
};

// float32 (or int32) of one element or of `count`; of experts, of one for each or of `count` each.
ScaleView check_scales(const char* op, const char* name, const Tensor& scales, ScalarType type,
                       int64_t count, const char* with_name, const Tensor& with,
                       const Experts& experts = {});

// Rows of floats with an optional RMSNorm; keeps the tensors that the rows point into.
struct FloatInput {
  FloatRows rows;
  std::vector<Tensor> held;
};
FloatInput check_floats(const char* op, const Tensor& x, const std::optional<Tensor>& norm_weight,
                        double norm_eps);

// A bias [n] of any float type: as it is if it is float32 or of the type of y, else in float32.
struct Bias {
  std::optional<Tensor> tensor;
  DType dtype = DType::f32;

  const void* data() const { return tensor ? tensor->const_data_ptr() : nullptr; }
};
Bias check_bias_for(const char* op, const std::optional<Tensor>& bias, const Experts& experts,
                    int64_t n, const Tensor& weight, ScalarType y);

// The type of y, float32 if not given.
ScalarType check_out_dtype(const char* op, std::optional<ScalarType> dtype);

bool is_float8(const Tensor& tensor);
Float8 to_float8(ScalarType type);

}  // namespace qcore::binding
