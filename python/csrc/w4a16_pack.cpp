// torch.ops.qcore.w4a16_pack, _unpack and _repack: a weight of 2-, 3-, 4- or 8-bit codes
// (int_group) into the layout of a kernel family, and back.
#include <tuple>
#include <utility>

#include "executor.h"
#include "registration.h"
#include "w4a16_packed.h"

namespace qcore::binding {
namespace {

constexpr const char* kPack = "w4a16_pack";
constexpr const char* kUnpack = "w4a16_unpack";
constexpr const char* kRepack = "w4a16_repack";

using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// What the codes of a tensor are, if they are floats.
std::optional<Float8> floats_of(ScalarType type) {
  if (type == ScalarType::Float8_e4m3fn) return Float8::e4m3;
  if (type == ScalarType::Float8_e5m2) return Float8::e5m2;
  return {};
}

// The last size of the descriptor.
int64_t codes_of(const ScaledWeight& weight) {
  if (is_float(weight.elements)) return weight.elements == Elements::e4m3 ? 2 : 3;
  return weight.has_zeros;
}

ScaledWeight make_shape(const char* op, const Experts& experts, int64_t n, int64_t k,
                        int64_t group_size, int64_t bits, const Tensor& scales, bool has_zeros,
                        std::optional<Float8> floats = {}) {
  check(is_float(scales), op, "scales must be float32, float16 or bfloat16 [N, G], got ",
        describe(scales));
  ScaledWeight weight;
  weight.n = n;
  weight.k = k;
  weight.group_size = group_size == -1 ? k : group_size;
  check(elements_of_codes(bits, floats, weight.elements), op);
  weight.has_zeros = has_zeros;
  weight.scale_dtype = to_dtype(scales.scalar_type());
  weight.experts = experts.value_or(1);
  check(weight.check(), op);
  return weight;
}

// `number` 0: the layout of the fastest kernel on the device of the tensors.
const ScaledLayout& choose_layout(const char* op, const ScaledWeight& weight, int64_t number,
                                  Device device) {
  if (number == 0) {
    W4A16::Problem problem;
    problem.device = device;
    problem.weight = weight;
    const auto choice = select<W4A16>(problem);
    if (!choice.row) check(choice.status, op);
    return choice.row->weight_layout();
  }
  const ScaledLayout* layout = find_scaled_layout(number);
  check(layout != nullptr, op, "layout must be 0 or one of ", all_layouts(), ", got ", number);
  check(device == Device::cpu || layout->device == device, op, "layout ", number, " (",
        layout->name, ") is for ", name(layout->device),
        " and is packed there, the tensors are on ", name(device));
  return *layout;
}

// Checks scales and zeros against the shape, then packs. `codes_name` is the argument that `codes`
// points into, `like` that tensor.
FourTensors pack_checked(const char* op, const Experts& experts, const ScaledWeight& weight,
                         const CodeSource& codes, const char* codes_name, const Tensor& like,
                         const Tensor& scales, const std::optional<Tensor>& zeros,
                         int64_t layout_number) {
  check(has_sizes(scales, experts, {weight.n, weight.groups()}), op, "scales must have the sizes [",
        in_front(experts), weight.n, ", ", weight.groups(), "], one per row and group of ",
        weight.group_size, " columns, got ", describe(scales));
  check_same_device(op, "scales", scales, codes_name, like);
  std::optional<Tensor> dense_zeros;
  if (zeros) {
    check(zeros->scalar_type() == ScalarType::Byte &&
              has_sizes(*zeros, experts, {weight.n, weight.groups()}),
          op, "zeros must be uint8 [", in_front(experts), weight.n, ", ", weight.groups(),
          "], got ", describe(*zeros));
    check_same_device(op, "zeros", *zeros, codes_name, like);
    dense_zeros = dense(*zeros);
  }

  const Place place(op, like);
  const ScaledLayout& layout = choose_layout(op, weight, layout_number, device_of(like));
  const PackedSizes needed = layout.packed_sizes(weight.of_one_expert());
  const Tensor dense_scales = dense(scales);
  const Tensor out_qweight = new_tensor(like, experts, {needed.qweight_bytes}, ScalarType::Byte);
  const Tensor out_scales = new_tensor(like, experts, {needed.scales}, scales.scalar_type());
  const Tensor out_zeros = new_tensor(like, experts, {needed.zeros}, ScalarType::Byte);
  const Tensor shape = new_tensor(
      like,
      {0, layout.number, weight.n, weight.k, weight.group_size, weight.bits(), codes_of(weight)},
      ScalarType::Byte);
  const ScaledView view{weight, codes, dense_scales.const_data_ptr(),
                        dense_zeros ? dense_zeros->const_data_ptr<uint8_t>() : nullptr};
  const PackedBuffers buffers{out_qweight.mutable_data_ptr(), out_scales.mutable_data_ptr(),
                              zeros ? out_zeros.mutable_data_ptr<uint8_t>() : nullptr};
  check(qcore::pack(layout, view, buffers, place.executor()), op);
  return {out_qweight, out_scales, out_zeros, shape};
}

FourTensors pack(const Tensor& codes, const Tensor& scales, const std::optional<Tensor>& zeros,
                 int64_t group_size, int64_t bits, int64_t layout) {
  const std::optional<Float8> floats = floats_of(codes.scalar_type());
  check(
      (codes.scalar_type() == ScalarType::Byte || floats) && (codes.dim() == 2 || codes.dim() == 3),
      kPack, "codes must be uint8, float8_e4m3fn or float8_e5m2 [N, K], got ", describe(codes));
  Experts experts;
  if (codes.dim() == 3) experts = codes.size(0);
  const ScaledWeight weight = make_shape(kPack, experts, codes.size(-2), codes.size(-1), group_size,
                                         bits, scales, zeros.has_value(), floats);
  const Tensor dense_codes = dense(codes);
  return pack_checked(kPack, experts, weight, {dense_codes.const_data_ptr()}, "codes", codes,
                      scales, zeros, layout);
}

CodeOrder parse_order(const std::string& order) {
  if (order == "gptq") return CodeOrder::gptq;
  if (order == "awq") return CodeOrder::awq;
  check(order == "compressed_tensors", kRepack,
        "order must be gptq, awq or compressed_tensors, got ", order);
  return CodeOrder::compressed_tensors;
}

std::pair<int64_t, int64_t> words_of(CodeOrder order, const ScaledWeight& weight) {
  const int64_t along_k = ceil_div(weight.k * weight.bits(), 32);
  if (order == CodeOrder::gptq) return {along_k, weight.n};
  if (order == CodeOrder::awq) return {weight.k, weight.n / 8};
  return {weight.n, along_k};
}

FourTensors repack(const Tensor& qweight, const Tensor& scales, const std::optional<Tensor>& zeros,
                   const std::string& order, int64_t n, int64_t k, int64_t group_size, int64_t bits,
                   const std::optional<Tensor>& perm, int64_t layout) {
  const ScaledWeight weight =
      make_shape(kRepack, {}, n, k, group_size, bits, scales, zeros.has_value());
  CodeSource codes;
  codes.order = parse_order(order);
  check(codes.check(weight), kRepack);
  const auto [rows, columns] = words_of(codes.order, weight);
  check(qweight.scalar_type() == ScalarType::Int && has_sizes(qweight, {rows, columns}), kRepack,
        "qweight must be int32 [", rows, ", ", columns, "] for n=", n, " k=", k,
        " bits=", weight.bits(), " in the order of ", order, ", got ", describe(qweight));
  std::optional<Tensor> index;
  if (perm) index = check_perm(kRepack, *perm, {}, k, "qweight", qweight);
  const Tensor words = dense(qweight);
  codes.data = words.const_data_ptr();
  codes.perm = index ? index->const_data_ptr<int32_t>() : nullptr;
  return pack_checked(kRepack, {}, weight, codes, "qweight", qweight, scales, zeros, layout);
}

std::tuple<Tensor, Tensor, Tensor> unpack(const Tensor& qweight, const Tensor& scales,
                                          const Tensor& zeros, const Tensor& shape) {
  const PackedWeight packed = check_packed(kUnpack, qweight, scales, zeros, shape);
  check(qweight.is_cpu() || packed.layout->device == device_of(qweight), kUnpack,
        "the weight is packed for ", name(packed.layout->device), " (layout ", packed.layout->name,
        "), qweight is on ", device_name(qweight), ": unpack it on ", name(packed.layout->device));
  const Place place(kUnpack, qweight);
  const ScaledWeight& weight = packed.view.shape;
  ScalarType type = ScalarType::Byte;
  if (weight.elements == Elements::e4m3) type = ScalarType::Float8_e4m3fn;
  if (weight.elements == Elements::e5m2) type = ScalarType::Float8_e5m2;
  const Tensor out_codes = new_tensor(qweight, packed.experts, {weight.n, weight.k}, type);
  const Tensor out_scales =
      new_tensor(qweight, packed.experts, {weight.n, weight.groups()}, scales.scalar_type());
  const Tensor out_zeros =
      weight.has_zeros
          ? new_tensor(qweight, packed.experts, {weight.n, weight.groups()}, ScalarType::Byte)
          : new_tensor(qweight, {0}, ScalarType::Byte);
  check(qcore::unpack(packed.view, static_cast<uint8_t*>(out_codes.mutable_data_ptr()),
                      out_scales.mutable_data_ptr(),
                      weight.has_zeros ? out_zeros.mutable_data_ptr<uint8_t>() : nullptr,
                      place.executor()),
        kUnpack);
  return {out_codes, out_scales, out_zeros};
}

const Registration registration{
    {"w4a16_pack(Tensor codes, Tensor scales, Tensor? zeros, SymInt group_size, int bits=4, "
     "int layout=0) -> (Tensor qweight, Tensor scales, Tensor zeros, Tensor shape)",
     TORCH_BOX(&pack)},
    {"w4a16_repack(Tensor qweight, Tensor scales, Tensor? zeros, str order, SymInt n, SymInt k, "
     "SymInt group_size, int bits=4, Tensor? perm=None, int layout=0) -> "
     "(Tensor qweight, Tensor scales, Tensor zeros, Tensor shape)",
     TORCH_BOX(&repack)},
    {"w4a16_unpack(Tensor qweight, Tensor scales, Tensor zeros, Tensor shape) -> "
     "(Tensor codes, Tensor scales, Tensor zeros)",
     TORCH_BOX(&unpack)},
};

}  // namespace

}  // namespace qcore::binding
