// torch.ops.qcore.quantize_int8 and quantize_fp8: rows of floats to numbers of 8 bits.
#include <optional>
#include <string>
#include <tuple>

#include "canonical.h"
#include "registration.h"

namespace qcore::binding {
namespace {

constexpr const char* kInt8 = "quantize_int8";
constexpr const char* kFp8 = "quantize_fp8";

// A given scale or zero point: [..., 1] like x per token, [1] per tensor.
Tensor check_given(const char* op, const char* name, const Tensor& given, ScalarType type,
                   bool per_token, const Tensor& x) {
  bool fits = given.scalar_type() == type;
  if (per_token) {
    fits = fits && given.dim() == x.dim() && given.size(given.dim() - 1) == 1;
    for (int64_t i = 0; fits && i + 1 < x.dim(); ++i) fits = given.size(i) == x.size(i);
  } else {
    fits = fits && has_sizes(given, {1});
  }
  check(fits, op, name, " must be ", type_name(type),
        per_token ? " [..., 1] with the leading sizes of x, because it is per token, got "
                  : " [1], because it is per tensor, got ",
        describe(given));
  check_same_device(op, name, given, "x", x);
  return dense(given);
}

Tensor new_scales(const Tensor& x, bool per_tensor, int64_t columns, ScalarType type) {
  return per_tensor ? new_tensor(x, {1}, type) : new_rows(x, columns, type);
}

std::tuple<Tensor, Tensor, Tensor> quantize_int8(const Tensor& x, bool symmetric, bool per_token,
                                                 const std::optional<Tensor>& scale,
                                                 const std::optional<Tensor>& zero,
                                                 const std::optional<Tensor>& norm_weight,
                                                 double norm_eps) {
  const FloatInput input = check_floats(kInt8, x, norm_weight, norm_eps);
  check(!zero || (scale && !symmetric), kInt8, "zero must be None, because ",
        symmetric ? "zero points are 0 (symmetric)" : "scale is None");
  check(!scale || symmetric || zero, kInt8,
        "zero must be int32 like scale, because that is given and symmetric is False, got None");
  std::optional<Tensor> given_scale, given_zero;
  if (scale) given_scale = check_given(kInt8, "scale", *scale, ScalarType::Float, per_token, x);
  if (zero) given_zero = check_given(kInt8, "zero", *zero, ScalarType::Int, per_token, x);

  const Place place(kInt8, x);
  const Tensor q = new_rows(x, input.rows.k, ScalarType::Char);
  const Tensor used = new_scales(x, !per_token, 1, ScalarType::Float);
  const Tensor used_zero = symmetric ? new_tensor(x, {0}, ScalarType::Int)
                                     : new_scales(x, !per_token, 1, ScalarType::Int);
  QuantizeInt8Args args;
  args.x = input.rows;
  args.symmetric = symmetric;
  args.granularity = per_token ? Granularity::row : Granularity::tensor;
  args.given_scale = given_scale ? given_scale->const_data_ptr<float>() : nullptr;
  args.given_zero = given_zero ? given_zero->const_data_ptr<int32_t>() : nullptr;
  args.q = static_cast<int8_t*>(q.mutable_data_ptr());
  args.scale = static_cast<float*>(used.mutable_data_ptr());
  args.zero = symmetric ? nullptr : static_cast<int32_t*>(used_zero.mutable_data_ptr());
  if (args.empty() && !per_token) {  // no row: the scale of zeros
    torch::stable::fill_(used, 1.0);
    if (!symmetric) torch::stable::fill_(used_zero, -128.0);
  }
  if (args.empty()) return {q, used, used_zero};
  const auto workspace =
      make_workspace(kInt8, args, place, x, &qcore::quantize_int8_workspace_bytes);
  check(qcore::quantize_int8(args, place.executor()), kInt8);
  return {q, used, used_zero};
}

Granularity parse_granularity(const std::string& text) {
  if (text == "token") return Granularity::row;
  if (text == "tensor") return Granularity::tensor;
  check(text == "block", kFp8, "granularity must be token, tensor or block, got ", text);
  return Granularity::block;
}

std::tuple<Tensor, Tensor> quantize_fp8(const Tensor& x, const std::optional<Tensor>& scale,
                                        const std::string& granularity,
                                        std::optional<ScalarType> dtype,
                                        const std::optional<Tensor>& norm_weight, double norm_eps) {
  const FloatInput input = check_floats(kFp8, x, norm_weight, norm_eps);
  const Granularity kind = parse_granularity(granularity);
  const ScalarType type = dtype.value_or(ScalarType::Float8_e4m3fn);
  check(type == ScalarType::Float8_e4m3fn || type == ScalarType::Float8_e5m2, kFp8,
        "dtype must be float8_e4m3fn or float8_e5m2, got ", type_name(type));
  check(!scale || kind != Granularity::block, kFp8,
        "scale must be None, because scales of blocks come from x");
  std::optional<Tensor> given;
  if (scale) {
    given = check_given(kFp8, "scale", *scale, ScalarType::Float, kind == Granularity::row, x);
  }

  const Place place(kFp8, x);
  const Tensor q = new_rows(x, input.rows.k, type);
  const int64_t columns = kind == Granularity::block ? ceil_div(input.rows.k, kScaleBlock) : 1;
  const Tensor used = new_scales(x, kind == Granularity::tensor, columns, ScalarType::Float);
  QuantizeFp8Args args;
  args.x = input.rows;
  args.type = to_float8(type);
  args.granularity = kind;
  args.given_scale = given ? given->const_data_ptr<float>() : nullptr;
  args.q = static_cast<uint8_t*>(q.mutable_data_ptr());
  args.scale = static_cast<float*>(used.mutable_data_ptr());
  if (args.empty() && kind == Granularity::tensor) torch::stable::fill_(used, 1.0);
  if (args.empty()) return {q, used};
  const auto workspace = make_workspace(kFp8, args, place, x, &qcore::quantize_fp8_workspace_bytes);
  check(qcore::quantize_fp8(args, place.executor()), kFp8);
  return {q, used};
}

const Registration registration{
    {"quantize_int8(Tensor x, bool symmetric=True, bool per_token=True, Tensor? scale=None, "
     "Tensor? zero=None, Tensor? norm_weight=None, float norm_eps=1e-6) "
     "-> (Tensor q, Tensor scale, Tensor zero)",
     TORCH_BOX(&quantize_int8), kAutograd},
    {"quantize_fp8(Tensor x, Tensor? scale=None, str granularity=\"token\", "
     "ScalarType? dtype=None, Tensor? norm_weight=None, float norm_eps=1e-6) "
     "-> (Tensor q, Tensor scale)",
     TORCH_BOX(&quantize_fp8), kAutograd},
};

}  // namespace

}  // namespace qcore::binding
