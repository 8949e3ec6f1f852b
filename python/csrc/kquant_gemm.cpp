// torch.ops.qcore.kquant_pack, kquant_unpack and kquant_gemm: a weight of blocks in the layout of a
// kernel family, back again, and its product with activations.
#include <optional>
#include <string>
#include <vector>

#include "kquant_blocks.h"
#include "registration.h"
#include "result.h"

namespace qcore::binding {
namespace {

constexpr const char* kPack = "kquant_pack";
constexpr const char* kUnpack = "kquant_unpack";
constexpr const char* kGemm = "kquant_gemm";

std::string all_block_layouts() {
  std::string text;
  for (const BlockLayout* layout : block_layouts()) {
    text += (text.empty() ? "" : ", ") + std::to_string(layout->number) + " (" + layout->name + ")";
  }
  return text;
}

// `number` 0: the layout of the fastest kernel on the device.
const BlockLayout& choose_layout(const BlockShape& shape, int64_t number, Device device) {
  if (number == 0) {
    const auto choice = select<Kquant>({.device = device, .weight = shape});
    if (!choice.row) check(choice.status, kPack);
    return choice.row->weight_layout();
  }
  const BlockLayout* layout = find_block_layout(number);
  check(layout != nullptr, kPack, "layout must be 0, for the one of ", name(device), ", or one of ",
        all_block_layouts(), ", got ", number);
  check(device == Device::cpu || layout->device == device, kPack, "layout ", number, " (",
        layout->name, ") is for ", name(layout->device), " and is packed there, blocks are on ",
        name(device));
  return *layout;
}

struct PackedWeight {
  PackedBlocks view;
  Experts experts;
  const BlockLayout* layout;
  Tensor data;  // what `view` points into
};

PackedWeight check_packed(const char* op, const Tensor& packed, const std::string& type, int64_t n,
                          int64_t k) {
  BlockShape shape{&find_format(op, type, k), n, k};
  Experts experts;
  if (packed.dim() == 2) experts = shape.experts = packed.size(0);
  check(shape.check(), op);
  std::string expected;
  for (const BlockLayout* layout : block_layouts()) {
    const int64_t elements =
        experts ? expert_bytes(*layout, shape) : packed_elements(*layout, shape);
    if (packed.scalar_type() == ScalarType::Byte && has_sizes(packed, experts, {elements})) {
      const Tensor data = dense_aligned(packed);
      return {{shape, layout->number, data.const_data_ptr()}, experts, layout, data};
    }
    expected += (expected.empty() ? "" : " or ") + std::to_string(elements) + " (on " +
                name(layout->device) + ")";
  }
  check(false, op, "packed must be what kquant_pack returned for type=", type, " n=", n, " k=", k,
        ", uint8 of size ", expected, experts ? " for each expert" : "", ", got ",
        describe(packed));
  return {{}, {}, nullptr, packed};  // not reached
}

Tensor pack(const Tensor& blocks, const std::string& type, int64_t k, int64_t layout_number) {
  const BlockFormat& format = find_format(kPack, type, k);
  check_blocks(kPack, format, k, blocks);
  check(blocks.dim() == 2 || blocks.dim() == 3, kPack,
        "blocks must have two dimensions, one row for each of the weight, or three for experts, "
        "got ",
        describe(blocks));
  BlockShape shape{&format, blocks.size(-2), k};
  Experts experts;
  if (blocks.dim() == 3) experts = shape.experts = blocks.size(0);
  check(shape.check(), kPack);

  const Place place(kPack, blocks);
  const BlockLayout& layout = choose_layout(shape, layout_number, device_of(blocks));
  const int64_t used = layout.packed_bytes(shape.of_one_expert());
  const int64_t size = experts ? expert_bytes(layout, shape) : packed_elements(layout, shape);
  Tensor packed = new_tensor(blocks, experts, {size}, ScalarType::Byte);
  const Tensor dense_blocks = dense_aligned(blocks);
  check(qcore::pack(layout, shape, dense_blocks.const_data_ptr(), packed.mutable_data_ptr(),
                    place.executor()),
        kPack);
  Tensor tail = torch::stable::narrow(packed, packed.dim() - 1, used, size - used);
  torch::stable::zero_(tail);
  return packed;
}

Tensor unpack(const Tensor& packed, const std::string& type, int64_t n, int64_t k) {
  const PackedWeight weight = check_packed(kUnpack, packed, type, n, k);
  check(packed.is_cpu() || weight.layout->device == device_of(packed), kUnpack,
        "the weight is packed for ", name(weight.layout->device), " (layout ", weight.layout->name,
        "), packed is on ", device_name(packed), ": unpack it on ", name(weight.layout->device));
  const BlockFormat& format = *weight.view.shape.format;

  const Place place(kUnpack, packed);
  const Tensor blocks =
      new_tensor(packed, weight.experts, {n, k / format.elements * format.bytes}, ScalarType::Byte);
  check(qcore::unpack(weight.view, blocks.mutable_data_ptr(), place.executor()), kUnpack);
  return blocks;
}

Tensor gemm(const Result& result, const Tensor& x, const Tensor& packed, const std::string& type,
            int64_t n, int64_t k, const std::optional<Tensor>& bias, bool float_activations,
            const std::optional<Tensor>& offsets) {
  const PackedWeight weight = check_packed(kGemm, packed, type, n, k);
  check_x(kGemm, x, k);
  check(weight.layout->device == device_of(x), kGemm, "the weight is packed for ",
        name(weight.layout->device), " (layout ", weight.layout->name, "), x is on ",
        device_name(x), ": move it with QLinear.to or pack it again on ", name(device_of(x)));
  check_same_device(kGemm, "packed", packed, "x", x);
  const std::optional<Tensor> addend = check_bias(kGemm, bias, weight.experts, n, x);
  const std::optional<Tensor> rows_of = check_offsets(kGemm, offsets, weight.experts, x);

  const Place place(kGemm, x);
  const Tensor y = result.y(kGemm, x, n, x.scalar_type());
  const Rows rows = as_rows(x, k);
  KquantArgs args;
  args.m = rows.count;
  args.dtype = to_dtype(x.scalar_type());
  args.x = rows.tensor.const_data_ptr();
  args.x_stride = rows.stride;
  args.weight = weight.view;
  args.bias = addend ? addend->const_data_ptr() : nullptr;
  args.y = y.mutable_data_ptr();
  args.float_activations = float_activations;
  args.offsets = rows_of ? rows_of->const_data_ptr<int32_t>() : nullptr;
  if (args.empty() && !offsets) return y;
  const auto workspace =
      make_workspace(kGemm, args, place, x, &qcore::kquant_workspace_bytes, result);
  if (result.bytes_needed) return y;
  check(qcore::kquant_gemm(args, place.executor()), kGemm);
  return y;
}

const Registration registration{
    {"kquant_pack(Tensor blocks, str type, SymInt k, int layout=0) -> Tensor", TORCH_BOX(&pack)},
    {"kquant_unpack(Tensor packed, str type, SymInt n, SymInt k) -> Tensor", TORCH_BOX(&unpack)},
    {"kquant_gemm(Tensor x, Tensor packed, str type, SymInt n, SymInt k, Tensor? bias=None, "
     "bool float_activations=False, Tensor? offsets=None) -> Tensor",
     QCORE_PRODUCT(gemm)},
};

}  // namespace

}  // namespace qcore::binding
