#include "w4a16_packed.h"

namespace qcore::binding {

std::string all_layouts() {
  std::string text;
  for (const ScaledLayout* layout : scaled_layouts()) {
    text += (text.empty() ? "" : ", ") + std::to_string(layout->number) + " (" + layout->name + ")";
  }
  return text;
}

PackedWeight check_packed(const char* op, const Tensor& qweight, const Tensor& scales,
                          const Tensor& zeros, const Tensor& shape) {
  const auto descriptor = sizes(shape);
  check(shape.scalar_type() == ScalarType::Byte && descriptor.size() == 7 && descriptor[0] == 0 &&
            descriptor[6] <= 3,
        op, "shape must be the descriptor that w4a16_pack returned, uint8 [0, layout, n, k, ",
        "group_size, bits, codes], got ", describe(shape));
  ScaledWeight weight;
  weight.n = descriptor[2];
  weight.k = descriptor[3];
  weight.group_size = descriptor[4];
  weight.has_zeros = descriptor[6] == 1;
  std::optional<Float8> floats;
  if (descriptor[6] == 2) floats = Float8::e4m3;
  if (descriptor[6] == 3) floats = Float8::e5m2;
  check(elements_of_codes(descriptor[5], floats, weight.elements), op);
  check(is_float(scales), op, "scales must be float32, float16 or bfloat16, got ",
        describe(scales));
  weight.scale_dtype = to_dtype(scales.scalar_type());
  Experts experts;
  if (qweight.dim() == 2) experts = weight.experts = qweight.size(0);
  check(weight.check(), op);

  const ScaledLayout* layout = find_scaled_layout(descriptor[1]);
  if (!layout) {
    check(false, op, "shape names layout ", descriptor[1], ", expected one of ", all_layouts());
  }
  const PackedSizes expected = layout->packed_sizes(weight.of_one_expert());
  const auto check_buffer = [&](const char* name, const Tensor& tensor, int64_t elements) {
    check(experts ? has_sizes(tensor, experts, {elements}) : tensor.numel() == elements, op, name,
          " must have ", experts ? "the sizes [" : "", in_front(experts), elements,
          experts ? "]" : " elements", " for n=", weight.n, " k=", weight.k,
          " group_size=", weight.group_size, " bits=", weight.bits(),
          weight.has_zeros ? ", asymmetric, got " : ", symmetric, got ", describe(tensor));
    check_same_device(op, name, tensor, "qweight", qweight);
  };
  check(qweight.scalar_type() == ScalarType::Byte, op, "qweight must be uint8, got ",
        describe(qweight));
  check(zeros.scalar_type() == ScalarType::Byte, op, "zeros must be uint8, got ", describe(zeros));
  check_buffer("qweight", qweight, expected.qweight_bytes);
  check_buffer("scales", scales, expected.scales);
  check_buffer("zeros", zeros, expected.zeros);

  PackedWeight packed{
      {}, experts, layout, dense_aligned(qweight), dense_aligned(scales), dense_aligned(zeros)};
  packed.view.shape = weight;
  packed.view.layout = layout->number;
  packed.view.qweight = packed.qweight.const_data_ptr();
  packed.view.scales = packed.scales.const_data_ptr();
  if (weight.has_zeros) packed.view.zeros = packed.zeros.const_data_ptr<uint8_t>();
  return packed;
}

Tensor check_perm(const char* op, const Tensor& perm, const Experts& experts, int64_t k,
                  const char* with_name, const Tensor& with) {
  const bool wide = perm.scalar_type() == ScalarType::Long;
  check(wide || perm.scalar_type() == ScalarType::Int, op, "perm must be int32 or int64, got ",
        describe(perm));
  check(has_sizes(perm, experts, {k}), op, "perm must have the sizes [", in_front(experts), k,
        "], got ", describe(perm));
  check_same_device(op, "perm", perm, with_name, with);
  const Tensor source = dense(perm);
  if (!wide) return source;
  if (!perm.is_cpu()) return converted(source, ScalarType::Int);
  const Tensor narrow = new_tensor(perm, experts, {k}, ScalarType::Int);
  const int64_t* from = source.const_data_ptr<int64_t>();
  int32_t* to = narrow.mutable_data_ptr<int32_t>();
  for (int64_t j = 0; j < perm.numel(); ++j) {
    check(from[j] >= 0 && from[j] < k, op, "perm[", j, "]: expected 0 .. ", k - 1, ", got ",
          from[j]);
    to[j] = static_cast<int32_t>(from[j]);
  }
  return narrow;
}

}  // namespace qcore::binding
