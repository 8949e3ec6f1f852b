// torch.ops.qcore.int8_gemm and int8_linear: 8-bit integer activations times a canonical weight.
#include <optional>

#include "canonical.h"
#include "registration.h"

namespace qcore::binding {
namespace {

constexpr const char* kGemm = "int8_gemm";
constexpr const char* kLinear = "int8_linear";

// The weight and what belongs to it; keeps the tensors that `args` points into.
struct Weight {
  Tensor weight;
  ScaleView scale;
  std::optional<Tensor> sum;
  Bias bias;
  std::optional<Tensor> offsets;
  Experts experts;
  int64_t n, k;

  void set(Int8Args& args) const {
    args.n = n;
    args.k = k;
    args.experts = experts.value_or(1);
    args.offsets = offsets ? offsets->const_data_ptr<int32_t>() : nullptr;
    args.weight = static_cast<const int8_t*>(weight.const_data_ptr());
    args.w_scale = scale.data<float>();
    args.w_scales = scale.kind;
    args.w_sum = sum ? sum->const_data_ptr<int32_t>() : nullptr;
    args.bias = bias.data();
    args.bias_dtype = bias.dtype;
  }
};

Weight check_weight(const char* op, const Tensor& x, const Tensor& weight, const Tensor& w_scale,
                    const std::optional<Tensor>& w_sum, const std::optional<Tensor>& bias,
                    const std::optional<Tensor>& offsets, ScalarType y) {
  check(weight.scalar_type() == ScalarType::Char && (weight.dim() == 2 || weight.dim() == 3) &&
            weight.size(-1) >= 1,
        op, "weight must be int8 [N, K] or [E, N, K] with K of 1 or more, got ", describe(weight));
  const int64_t n = weight.size(-2), k = weight.size(-1);
  Experts experts;
  if (weight.dim() == 3) experts = weight.size(0);
  check(k <= kInt8MaxK, op, "weight must have at most ", kInt8MaxK,
        " columns, so that sums fit into 32 bits, got ", describe(weight));
  check_same_device(op, "weight", weight, "x", x);
  if (w_sum) {
    check(w_sum->scalar_type() == ScalarType::Int && has_sizes(*w_sum, experts, {n}), op,
          "w_sum must be int32 [", in_front(experts), n, "], got ", describe(*w_sum));
    check_same_device(op, "w_sum", *w_sum, "weight", weight);
  }
  return {dense_aligned(weight),
          check_scales(op, "w_scale", w_scale, ScalarType::Float, n, "weight", weight, experts),
          w_sum ? std::optional<Tensor>(dense(*w_sum)) : std::nullopt,
          check_bias_for(op, bias, experts, n, weight, y),
          check_offsets(op, offsets, experts, x),
          experts,
          n,
          k};
}

Tensor run(const char* op, const Result& result, Int8Args& args, const Place& place,
           const Tensor& x, ScalarType dtype) {
  const Tensor y = result.y(op, x, args.n, dtype);
  args.dtype = to_dtype(dtype);
  args.y = y.mutable_data_ptr();
  if (args.empty() && !args.offsets) return y;
  const auto workspace = make_workspace(op, args, place, x, &qcore::int8_workspace_bytes, result);
  if (result.bytes_needed) return y;
  check(qcore::int8_gemm(args, place.executor()), op);
  return y;
}

Tensor gemm(const Result& result, const Tensor& x, const Tensor& weight, const Tensor& x_scale,
            const Tensor& w_scale, const std::optional<Tensor>& x_zero,
            const std::optional<Tensor>& bias, std::optional<ScalarType> out_dtype,
            const std::optional<Tensor>& w_sum, const std::optional<Tensor>& offsets) {
  const ScalarType dtype = check_out_dtype(kGemm, out_dtype);
  const Weight w = check_weight(kGemm, x, weight, w_scale, w_sum, bias, offsets, dtype);
  check(x.scalar_type() == ScalarType::Char && x.dim() >= 1 && x.size(x.dim() - 1) == w.k, kGemm,
        "x must be int8 [..., ", w.k, "], got ", describe(x));
  const int64_t m = x.numel() / w.k;
  const ScaleView scale = check_scales(kGemm, "x_scale", x_scale, ScalarType::Float, m, "x", x);
  ScaleView zero;
  if (x_zero) {
    zero = check_scales(kGemm, "x_zero", *x_zero, ScalarType::Int, m, "x", x);
    check(x_zero->numel() == x_scale.numel(), kGemm, "x_zero must have ", x_scale.numel(),
          " elements like x_scale, got ", describe(*x_zero));
  }

  const Place place(kGemm, x);
  const Rows rows = as_rows(x, w.k);
  Int8Args args;
  args.m = rows.count;
  args.x = static_cast<const int8_t*>(rows.tensor.const_data_ptr());
  args.x_stride = rows.stride;
  args.x_scale = scale.data<float>();
  args.x_scales = scale.kind;
  args.x_zero = zero.data<int32_t>();
  w.set(args);
  return run(kGemm, result, args, place, x, dtype);
}

Tensor linear(const Result& result, const Tensor& x, const Tensor& weight, const Tensor& w_scale,
              const std::optional<Tensor>& w_sum, const std::optional<Tensor>& bias, bool symmetric,
              const std::optional<Tensor>& x_scale, const std::optional<Tensor>& x_zero,
              const std::optional<Tensor>& norm_weight, double norm_eps,
              const std::optional<Tensor>& offsets) {
  const FloatInput input = check_floats(kLinear, x, norm_weight, norm_eps);
  const Weight w = check_weight(kLinear, x, weight, w_scale, w_sum, bias, offsets, x.scalar_type());
  check_x(kLinear, x, w.k);
  check(!x_zero || (x_scale && !symmetric), kLinear, "x_zero must be None, because ",
        symmetric ? "zero points are 0 (symmetric)" : "x_scale is None");
  check(!x_scale || symmetric || x_zero, kLinear,
        "x_zero must be int32 [1], because x_scale is given and symmetric is False, got None");
  ScaleView scale, zero;
  if (x_scale) scale = check_scales(kLinear, "x_scale", *x_scale, ScalarType::Float, 1, "x", x);
  if (x_zero) zero = check_scales(kLinear, "x_zero", *x_zero, ScalarType::Int, 1, "x", x);

  const Place place(kLinear, x);
  Int8Args args;
  args.m = input.rows.m;
  args.floats = input.rows;
  args.symmetric = symmetric;
  args.x_scale = scale.data<float>();
  args.x_scales = scale.kind;
  args.x_zero = zero.data<int32_t>();
  w.set(args);
  return run(kLinear, result, args, place, x, x.scalar_type());
}

const Registration registration{
    {"int8_gemm(Tensor x, Tensor weight, Tensor x_scale, Tensor w_scale, Tensor? x_zero=None, "
     "Tensor? bias=None, ScalarType? out_dtype=None, Tensor? w_sum=None, Tensor? offsets=None) "
     "-> Tensor",
     QCORE_PRODUCT(gemm)},
    {"int8_linear(Tensor x, Tensor weight, Tensor w_scale, Tensor? w_sum=None, "
     "Tensor? bias=None, bool symmetric=True, Tensor? x_scale=None, Tensor? x_zero=None, "
     "Tensor? norm_weight=None, float norm_eps=1e-6, Tensor? offsets=None) -> Tensor",
     QCORE_PRODUCT(linear)},
};

}  // namespace

}  // namespace qcore::binding
