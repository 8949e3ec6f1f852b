// torch.ops.qcore.w4a16_gemm: float activations times a packed weight.
#include <optional>

#include "registration.h"
#include "result.h"
#include "w4a16_packed.h"

namespace qcore::binding {
namespace {

constexpr const char* kGemm = "w4a16_gemm";

Tensor gemm(const Result& result, const Tensor& x, const Tensor& qweight, const Tensor& scales,
            const Tensor& zeros, const Tensor& shape, const std::optional<Tensor>& perm,
            const std::optional<Tensor>& bias, bool batch_invariant,
            const std::optional<Tensor>& offsets) {
  const PackedWeight packed = check_packed(kGemm, qweight, scales, zeros, shape);
  const int64_t n = packed.view.shape.n, k = packed.view.shape.k;
  check_x(kGemm, x, k);
  check(packed.layout->device == device_of(x), kGemm, "the weight is packed for ",
        name(packed.layout->device), " (layout ", packed.layout->name, "), x is on ",
        device_name(x), ": move it with QLinear.to or pack it again on ", name(device_of(x)));
  check_same_device(kGemm, "qweight", qweight, "x", x);
  std::optional<Tensor> index;
  if (perm) index = check_perm(kGemm, *perm, packed.experts, k, "x", x);
  const std::optional<Tensor> addend = check_bias(kGemm, bias, packed.experts, n, x);
  const std::optional<Tensor> rows_of = check_offsets(kGemm, offsets, packed.experts, x);

  const Place place(kGemm, x);
  const Tensor y = result.y(kGemm, x, n, x.scalar_type());
  const Rows rows = as_rows(x, k);
  if (rows.count == 0 && !offsets) return y;

  W4A16Args args;
  args.m = rows.count;
  args.dtype = to_dtype(x.scalar_type());
  args.x = rows.tensor.const_data_ptr();
  args.x_stride = rows.stride;
  args.weight = packed.view;
  args.perm = index ? index->const_data_ptr<int32_t>() : nullptr;
  args.bias = addend ? addend->const_data_ptr() : nullptr;
  args.y = y.mutable_data_ptr();
  args.batch_invariant = batch_invariant;
  args.offsets = rows_of ? rows_of->const_data_ptr<int32_t>() : nullptr;
  const auto workspace =
      make_workspace(kGemm, args, place, x, &qcore::w4a16_workspace_bytes, result);
  if (result.bytes_needed) return y;
  check(qcore::w4a16_gemm(args, place.executor()), kGemm);
  return y;
}

const Registration registration{
    {"w4a16_gemm(Tensor x, Tensor qweight, Tensor scales, Tensor zeros, Tensor shape, "
     "Tensor? perm=None, Tensor? bias=None, bool batch_invariant=False, Tensor? offsets=None) "
     "-> Tensor",
     QCORE_PRODUCT(gemm)},
};

}  // namespace

}  // namespace qcore::binding
