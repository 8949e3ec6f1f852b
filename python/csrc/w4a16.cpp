// torch.ops.qcore.w4a16_*: float activations times a weight of 2-, 3-, 4- or 8-bit codes
// (int_group).
//
// A packed weight is four tensors. `shape` has no elements: its sizes [0, layout, n, k, group_size,
// bits, has_zeros] are the descriptor. So fake kernels see it, it follows `.to(device)` and a state
// dict, and reading it never waits for a device.
#include <algorithm>
#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

#include "tensors.h"

namespace qcore::binding {
namespace {

constexpr const char* kPack = "w4a16_pack";
constexpr const char* kUnpack = "w4a16_unpack";
constexpr const char* kGemm = "w4a16_gemm";

Device device_of(const Tensor& tensor) {
  return tensor.is_cuda() ? Device::cuda : Device::cpu;
}

const KernelRow& select_row(const char* op, const Problem& problem) {
  const Selection choice = select("w4a16", problem);
  if (!choice.row) check(choice.status, op);
  return *choice.row;
}

// A packed weight whose buffers are known to be as large as its descriptor says.
struct PackedWeight {
  PackedIntGroup view;
  Tensor qweight, scales, zeros;  // what `view` points into
};

PackedWeight check_packed(const char* op, const Tensor& qweight, const Tensor& scales,
                          const Tensor& zeros, const Tensor& shape) {
  const auto descriptor = sizes(shape);
  check(shape.scalar_type() == ScalarType::Byte && descriptor.size() == 7 && descriptor[0] == 0 &&
            descriptor[6] <= 1,
        op, "shape must be the descriptor that w4a16_pack returned, uint8 [0, layout, n, k, ",
        "group_size, bits, has_zeros], got ", describe(shape));
  IntGroup weight;
  weight.n = descriptor[2];
  weight.k = descriptor[3];
  weight.group_size = descriptor[4];
  weight.bits = static_cast<int>(std::min<int64_t>(descriptor[5], 99));
  weight.has_zeros = descriptor[6] == 1;
  check(is_float(scales), op, "scales must be float32, float16 or bfloat16, got ",
        describe(scales));
  weight.scale_dtype = to_dtype(scales.scalar_type());
  check(weight.check(), op);

  const Layout* layout = find_layout(descriptor[1]);
  check(layout != nullptr && layout->device == device_of(qweight), op, "shape names layout ",
        descriptor[1], ", which no kernel of this build reads on the device of qweight, ",
        describe(qweight));
  const PackedSizes expected = layout->packed_sizes(weight);
  const auto check_buffer = [&](const char* name, const Tensor& tensor, int64_t elements) {
    check(tensor.numel() == elements, op, name, " must have ", elements,
          " elements for n=", weight.n, " k=", weight.k, " group_size=", weight.group_size,
          " bits=", weight.bits, weight.has_zeros ? ", asymmetric, got " : ", symmetric, got ",
          describe(tensor));
    check_same_device(op, name, tensor, qweight);
  };
  check(qweight.scalar_type() == ScalarType::Byte, op, "qweight must be uint8, got ",
        describe(qweight));
  check(zeros.scalar_type() == ScalarType::Byte, op, "zeros must be uint8, got ", describe(zeros));
  check_buffer("qweight", qweight, expected.qweight_bytes);
  check_buffer("scales", scales, expected.scales);
  check_buffer("zeros", zeros, expected.zeros);

  PackedWeight packed{{}, dense(qweight), dense(scales), dense(zeros)};
  packed.view.shape = weight;
  packed.view.layout = static_cast<int>(descriptor[1]);
  packed.view.qweight = packed.qweight.const_data_ptr();
  packed.view.scales = packed.scales.const_data_ptr();
  if (weight.has_zeros) packed.view.zeros = packed.zeros.const_data_ptr<uint8_t>();
  return packed;
}

// The permutation as int32. The core checks its range at every call; what int32 cannot hold is seen
// here.
Tensor check_perm(const Tensor& perm, int64_t k, const Tensor& x) {
  const bool wide = perm.scalar_type() == ScalarType::Long;
  check(wide || perm.scalar_type() == ScalarType::Int, kGemm, "perm must be int32 or int64, got ",
        describe(perm));
  check(has_sizes(perm, {k}), kGemm, "perm must have the sizes [", k, "], got ", describe(perm));
  check_same_device(kGemm, "perm", perm, x);
  const Tensor source = dense(perm);
  if (!wide) return source;
  const Tensor narrow = new_tensor(perm, {k}, ScalarType::Int);
  const int64_t* from = source.const_data_ptr<int64_t>();
  int32_t* to = narrow.mutable_data_ptr<int32_t>();
  for (int64_t j = 0; j < k; ++j) {
    check(from[j] >= 0 && from[j] < k, kGemm, "perm[", j, "]: expected 0 .. ", k - 1, ", got ",
          from[j]);
    to[j] = static_cast<int32_t>(from[j]);
  }
  return narrow;
}

// x as rows of K contiguous elements: its own memory where the strides allow that, else a copy.
struct Rows {
  Tensor tensor;
  int64_t count, stride;
};

Rows as_rows(const Tensor& x, int64_t k) {
  const int64_t count = x.numel() / k;
  if (x.dim() == 2 && count > 1 && x.stride(1) == 1) {
    return {x, count, x.stride(0)};
  }
  return {dense(x), count, k};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> pack(const Tensor& codes, const Tensor& scales,
                                                const std::optional<Tensor>& zeros,
                                                int64_t group_size, int64_t bits) {
  check(codes.scalar_type() == ScalarType::Byte && codes.dim() == 2, kPack,
        "codes must be uint8 [N, K], got ", describe(codes));
  check(is_float(scales), kPack, "scales must be float32, float16 or bfloat16 [N, G], got ",
        describe(scales));
  IntGroup weight;
  weight.n = codes.size(0);
  weight.k = codes.size(1);
  weight.group_size = group_size == -1 ? weight.k : group_size;
  weight.bits = static_cast<int>(std::clamp<int64_t>(bits, -1, 99));
  weight.has_zeros = zeros.has_value();
  weight.scale_dtype = to_dtype(scales.scalar_type());
  check(weight.check(), kPack);
  check(has_sizes(scales, {weight.n, weight.groups()}), kPack, "scales must have the sizes [",
        weight.n, ", ", weight.groups(), "], one per row and group of ", weight.group_size,
        " columns, got ", describe(scales));
  check_same_device(kPack, "scales", scales, codes);
  std::optional<Tensor> dense_zeros;
  if (zeros) {
    check(
        zeros->scalar_type() == ScalarType::Byte && has_sizes(*zeros, {weight.n, weight.groups()}),
        kPack, "zeros must be uint8 [", weight.n, ", ", weight.groups(), "], got ",
        describe(*zeros));
    check_same_device(kPack, "zeros", *zeros, codes);
    dense_zeros = dense(*zeros);
  }

  Problem problem;
  problem.device = device_of(codes);
  problem.weight = weight;
  const KernelRow& row = select_row(kPack, problem);
  const PackedSizes needed = row.layout->packed_sizes(weight);
  const Tensor dense_codes = dense(codes), dense_scales = dense(scales);
  const Tensor out_qweight = new_tensor(codes, {needed.qweight_bytes}, ScalarType::Byte);
  const Tensor out_scales = new_tensor(codes, {needed.scales}, scales.scalar_type());
  const Tensor out_zeros = new_tensor(codes, {needed.zeros}, ScalarType::Byte);
  const Tensor shape = new_tensor(
      codes,
      {0, row.layout->number, weight.n, weight.k, weight.group_size, weight.bits, weight.has_zeros},
      ScalarType::Byte);
  const IntGroupView view{weight,
                          {dense_codes.const_data_ptr()},
                          dense_scales.const_data_ptr(),
                          dense_zeros ? dense_zeros->const_data_ptr<uint8_t>() : nullptr};
  const PackedBuffers buffers{out_qweight.mutable_data_ptr(), out_scales.mutable_data_ptr(),
                              zeros ? out_zeros.mutable_data_ptr<uint8_t>() : nullptr};
  check(qcore::pack(*row.layout, view, buffers, torch_threads()), kPack);
  return {out_qweight, out_scales, out_zeros, shape};
}

std::tuple<Tensor, Tensor, Tensor> unpack(const Tensor& qweight, const Tensor& scales,
                                          const Tensor& zeros, const Tensor& shape) {
  const PackedWeight packed = check_packed(kUnpack, qweight, scales, zeros, shape);
  const IntGroup& weight = packed.view.shape;
  const Tensor out_codes = new_tensor(qweight, {weight.n, weight.k}, ScalarType::Byte);
  const Tensor out_scales = new_tensor(qweight, {weight.n, weight.groups()}, scales.scalar_type());
  const Tensor out_zeros = weight.has_zeros
                               ? new_tensor(qweight, {weight.n, weight.groups()}, ScalarType::Byte)
                               : new_tensor(qweight, {0}, ScalarType::Byte);
  check(qcore::unpack(
            packed.view, out_codes.mutable_data_ptr<uint8_t>(), out_scales.mutable_data_ptr(),
            weight.has_zeros ? out_zeros.mutable_data_ptr<uint8_t>() : nullptr, torch_threads()),
        kUnpack);
  return {out_codes, out_scales, out_zeros};
}

Tensor gemm(const Tensor& x, const Tensor& qweight, const Tensor& scales, const Tensor& zeros,
            const Tensor& shape, const std::optional<Tensor>& perm,
            const std::optional<Tensor>& bias) {
  const PackedWeight packed = check_packed(kGemm, qweight, scales, zeros, shape);
  const int64_t n = packed.view.shape.n, k = packed.view.shape.k;
  check(is_float(x), kGemm, "x must be float32, float16 or bfloat16, got ", describe(x));
  check(x.dim() >= 1 && x.size(x.dim() - 1) == k, kGemm, "x must have the sizes [..., ", k,
        "], got ", describe(x));
  check_same_device(kGemm, "x", x, qweight);
  std::optional<Tensor> index, addend;
  if (perm) index = check_perm(*perm, k, x);
  if (bias) {
    check(is_float(*bias) && has_sizes(*bias, {n}), kGemm,
          "bias must be float32, float16 or bfloat16 [", n, "], got ", describe(*bias));
    check_same_device(kGemm, "bias", *bias, x);
    addend = dense(
        bias->scalar_type() == x.scalar_type() ? *bias : torch::stable::to(*bias, x.scalar_type()));
  }

  std::vector<int64_t> y_sizes(sizes(x).begin(), sizes(x).end());
  y_sizes.back() = n;
  const Tensor y = torch::stable::new_empty(x, y_sizes, x.scalar_type());
  const Rows rows = as_rows(x, k);
  if (rows.count == 0) return y;

  W4A16Args args;
  args.m = rows.count;
  args.dtype = to_dtype(x.scalar_type());
  args.x = rows.tensor.const_data_ptr();
  args.x_stride = rows.stride;
  args.weight = packed.view;
  args.perm = index ? index->const_data_ptr<int32_t>() : nullptr;
  args.bias = addend ? addend->const_data_ptr() : nullptr;
  args.y = y.mutable_data_ptr();
  check(qcore::w4a16_gemm(args, torch_threads()), kGemm);
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(qcore, m) {
  m.def(
      "w4a16_pack(Tensor codes, Tensor scales, Tensor? zeros, int group_size, int bits=4) -> "
      "(Tensor qweight, Tensor scales, Tensor zeros, Tensor shape)");
  m.def(
      "w4a16_unpack(Tensor qweight, Tensor scales, Tensor zeros, Tensor shape) -> "
      "(Tensor codes, Tensor scales, Tensor zeros)");
  m.def(
      "w4a16_gemm(Tensor x, Tensor qweight, Tensor scales, Tensor zeros, Tensor shape, "
      "Tensor? perm=None, Tensor? bias=None) -> Tensor");
}

// A CUDA build will register the same functions under the key CUDA, once the core has CUDA rows.
STABLE_TORCH_LIBRARY_IMPL(qcore, CPU, m) {
  m.impl("w4a16_pack", TORCH_BOX(&pack));
  m.impl("w4a16_unpack", TORCH_BOX(&unpack));
  m.impl("w4a16_gemm", TORCH_BOX(&gemm));
}

}  // namespace qcore::binding
