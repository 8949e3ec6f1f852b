#include "canonical.h"

namespace qcore::binding {

ScaleView check_scales(const char* op, const char* name, const Tensor& scales, ScalarType type,
                       int64_t count, const char* with_name, const Tensor& with,
                       const Experts& experts) {
  const int64_t weights = experts.value_or(1), size = scales.numel();
  check(scales.scalar_type() == type && (size == weights || size == weights * count), op, name,
        " must be ", type_name(type), " of ", weights, " or ", weights * count, " elements, got ",
        describe(scales));
  check_same_device(op, name, scales, with_name, with);
  return {dense(scales), size == weights ? Granularity::tensor : Granularity::row};
}

FloatInput check_floats(const char* op, const Tensor& x, const std::optional<Tensor>& norm_weight,
                        double norm_eps) {
  check(is_float(x) && x.dim() >= 1 && x.size(x.dim() - 1) >= 1, op,
        "x must be float32, float16 or bfloat16 [..., K] with K of 1 or more, got ", describe(x));
  const int64_t k = x.size(x.dim() - 1);
  const Rows rows = as_rows(x, k);
  FloatInput input;
  input.held.push_back(rows.tensor);
  input.rows = {.m = rows.count,
                .k = k,
                .dtype = to_dtype(x.scalar_type()),
                .x = rows.tensor.const_data_ptr(),
                .stride = rows.stride,
                .norm_eps = static_cast<float>(norm_eps)};
  if (norm_weight) {
    check(is_float(*norm_weight) && has_sizes(*norm_weight, {k}), op,
          "norm_weight must be float32, float16 or bfloat16 [", k, "], got ",
          describe(*norm_weight));
    check_same_device(op, "norm_weight", *norm_weight, "x", x);
    input.held.push_back(dense(*norm_weight));
    input.rows.norm_weight = input.held.back().const_data_ptr();
    input.rows.norm_dtype = to_dtype(norm_weight->scalar_type());
  }
  return input;
}

Bias check_bias_for(const char* op, const std::optional<Tensor>& bias, const Experts& experts,
                    int64_t n, const Tensor& weight, ScalarType y) {
  if (!bias) return {};
  check(is_float(*bias) && has_sizes(*bias, experts, {n}), op,
        "bias must be float32, float16 or bfloat16 [", in_front(experts), n, "], got ",
        describe(*bias));
  check_same_device(op, "bias", *bias, "weight", weight);
  const ScalarType type = bias->scalar_type();
  if (type == y || type == ScalarType::Float) return {dense(*bias), to_dtype(type)};
  return {dense(converted(*bias, ScalarType::Float)), DType::f32};
}

ScalarType check_out_dtype(const char* op, std::optional<ScalarType> dtype) {
  const ScalarType type = dtype.value_or(ScalarType::Float);
  check(is_float(type), op, "out_dtype must be float32, float16 or bfloat16, got ",
        type_name(type));
  return type;
}

bool is_float8(const Tensor& tensor) {
  const ScalarType type = tensor.scalar_type();
  return type == ScalarType::Float8_e4m3fn || type == ScalarType::Float8_e5m2;
}

Float8 to_float8(ScalarType type) {
  return type == ScalarType::Float8_e4m3fn ? Float8::e4m3 : Float8::e5m2;
}

}  // namespace qcore::binding
