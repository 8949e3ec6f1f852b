// torch.ops.qcore.w4a16_gemm: float activations times a packed weight.
#include <optional>
#include <vector>

#include "executor.h"
#include "registration.h"
#include "w4a16_packed.h"

namespace qcore::binding {
namespace {

constexpr const char* kGemm = "w4a16_gemm";

// What the call works in besides its arguments; null if it needs nothing. torch gives freed memory
// only to later work of the same stream, so the tensor need not outlive the call.
std::optional<Tensor> make_workspace(const W4A16Args& args, const Place& place, const Tensor& x) {
  if (place.executor().device == Device::cpu) return std::nullopt;  // CPU rows need none
  int64_t bytes = 0;
  check(w4a16_workspace_bytes(args, place.executor(), bytes), kGemm);
  if (bytes == 0) return std::nullopt;
  return new_tensor(x, {bytes}, ScalarType::Byte);
}

Tensor gemm(const Tensor& x, const Tensor& qweight, const Tensor& scales, const Tensor& zeros,
            const Tensor& shape, const std::optional<Tensor>& perm,
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
  const Tensor y = new_rows(x, n, x.scalar_type());
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
  const std::optional<Tensor> workspace = make_workspace(args, place, x);
  if (workspace) args.workspace = workspace->mutable_data_ptr();
  check(qcore::w4a16_gemm(args, place.executor()), kGemm);
  return y;
}

const Registration registration{
    {"w4a16_gemm(Tensor x, Tensor qweight, Tensor scales, Tensor zeros, Tensor shape, "
     "Tensor? perm=None, Tensor? bias=None, bool batch_invariant=False, Tensor? offsets=None) "
     "-> Tensor",
     TORCH_BOX(&gemm), kAutograd},
};

}  // namespace

}  // namespace qcore::binding
