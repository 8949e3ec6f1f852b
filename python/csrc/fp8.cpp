// torch.ops.qcore.fp8_gemm and fp8_linear: activations of 8-bit floats times a canonical weight.
#include <optional>

#include "canonical.h"
#include "registration.h"

namespace qcore::binding {
namespace {

constexpr const char* kGemm = "fp8_gemm";
constexpr const char* kLinear = "fp8_linear";

// The weight and what belongs to it; keeps the tensors that `args` points into.
struct Weight {
  Tensor weight;
  ScaleView scale;
  Bias bias;
  int64_t n, k;

  void set(Fp8Args& args) const {
    args.n = n;
    args.k = k;
    args.weight = static_cast<const uint8_t*>(weight.const_data_ptr());
    args.w_type = to_float8(weight.scalar_type());
    args.w_scale = scale.data<float>();
    args.w_scales = scale.kind;
    args.bias = bias.data();
    args.bias_dtype = bias.dtype;
  }
};

ScaleView check_w_scale(const char* op, const Tensor& scale, const Tensor& weight) {
  const int64_t n = weight.size(0), k = weight.size(1);
  const int64_t rows = ceil_div(n, kScaleBlock), columns = ceil_div(k, kScaleBlock);
  Granularity kind = Granularity::tensor;
  bool fits = scale.scalar_type() == ScalarType::Float;
  if (scale.numel() != 1) {
    if (has_sizes(scale, {n}) || has_sizes(scale, {n, 1})) {
      kind = Granularity::row;
    } else {
      kind = Granularity::block;
      fits = fits && has_sizes(scale, {rows, columns});
    }
  }
  check(fits, op, "w_scale must be float32 [1], [", n, "] or, in blocks of 128 x 128, [", rows,
        ", ", columns, "], got ", describe(scale));
  check_same_device(op, "w_scale", scale, "weight", weight);
  return {dense(scale), kind};
}

Weight check_weight(const char* op, const Tensor& x, const Tensor& weight, const Tensor& w_scale,
                    const std::optional<Tensor>& bias, ScalarType y) {
  check(is_float8(weight) && weight.dim() == 2 && weight.size(1) >= 1, op,
        "weight must be float8_e4m3fn or float8_e5m2 [N, K] with K of 1 or more, got ",
        describe(weight));
  check_same_device(op, "weight", weight, "x", x);
  return {dense_aligned(weight), check_w_scale(op, w_scale, weight),
          check_bias_for(op, bias, {}, weight.size(0), weight, y), weight.size(0), weight.size(1)};
}

Tensor run(const char* op, const Result& result, Fp8Args& args, const Place& place, const Tensor& x,
           ScalarType dtype) {
  const Tensor y = result.y(op, x, args.n, dtype);
  args.dtype = to_dtype(dtype);
  args.y = y.mutable_data_ptr();
  if (args.empty()) return y;
  const auto workspace = make_workspace(op, args, place, x, &qcore::fp8_workspace_bytes, result);
  if (result.bytes_needed) return y;
  check(qcore::fp8_gemm(args, place.executor()), op);
  return y;
}

Tensor gemm(const Result& result, const Tensor& x, const Tensor& weight, const Tensor& x_scale,
            const Tensor& w_scale, const std::optional<Tensor>& bias,
            std::optional<ScalarType> out_dtype) {
  const ScalarType dtype = check_out_dtype(kGemm, out_dtype);
  const Weight w = check_weight(kGemm, x, weight, w_scale, bias, dtype);
  check(is_float8(x) && x.dim() >= 1 && x.size(x.dim() - 1) == w.k, kGemm,
        "x must be float8_e4m3fn or float8_e5m2 [..., ", w.k, "], got ", describe(x));
  const int64_t m = x.numel() / w.k, columns = ceil_div(w.k, kScaleBlock);
  ScaleView scale;
  if (w.scale.kind == Granularity::block) {
    check(x_scale.scalar_type() == ScalarType::Float && x_scale.dim() >= 1 &&
              x_scale.size(x_scale.dim() - 1) == columns && x_scale.numel() == m * columns,
          kGemm, "x_scale must be float32 [..., ", columns,
          "], because w_scale has blocks of 128 x 128, got ", describe(x_scale));
    check_same_device(kGemm, "x_scale", x_scale, "x", x);
    scale = {dense(x_scale), Granularity::block};
  } else {
    scale = check_scales(kGemm, "x_scale", x_scale, ScalarType::Float, m, "x", x);
  }

  const Place place(kGemm, x);
  const Rows rows = as_rows(x, w.k);
  Fp8Args args;
  args.m = rows.count;
  args.x = static_cast<const uint8_t*>(rows.tensor.const_data_ptr());
  args.x_stride = rows.stride;
  args.x_type = to_float8(x.scalar_type());
  args.x_scale = scale.data<float>();
  args.x_scales = scale.kind;
  w.set(args);
  return run(kGemm, result, args, place, x, dtype);
}

Tensor linear(const Result& result, const Tensor& x, const Tensor& weight, const Tensor& w_scale,
              const std::optional<Tensor>& bias, const std::optional<Tensor>& x_scale,
              const std::optional<Tensor>& norm_weight, double norm_eps) {
  const FloatInput input = check_floats(kLinear, x, norm_weight, norm_eps);
  const Weight w = check_weight(kLinear, x, weight, w_scale, bias, x.scalar_type());
  check_x(kLinear, x, w.k);
  check(!x_scale || w.scale.kind != Granularity::block, kLinear,
        "x_scale must be None, because w_scale has blocks of 128 x 128");
  ScaleView scale;
  if (x_scale) scale = check_scales(kLinear, "x_scale", *x_scale, ScalarType::Float, 1, "x", x);

  const Place place(kLinear, x);
  Fp8Args args;
  args.m = input.rows.m;
  args.floats = input.rows;
  args.x_scale = scale.data<float>();
  args.x_scales = w.scale.kind == Granularity::block ? Granularity::block : scale.kind;
  w.set(args);
  return run(kLinear, result, args, place, x, x.scalar_type());
}

const Registration registration{
    {"fp8_gemm(Tensor x, Tensor weight, Tensor x_scale, Tensor w_scale, Tensor? bias=None, "
     "ScalarType? out_dtype=None) -> Tensor",
     QCORE_PRODUCT(gemm)},
    {"fp8_linear(Tensor x, Tensor weight, Tensor w_scale, Tensor? bias=None, "
     "Tensor? x_scale=None, Tensor? norm_weight=None, float norm_eps=1e-6) -> Tensor",
     QCORE_PRODUCT(linear)},
};

}  // namespace

}  // namespace qcore::binding
