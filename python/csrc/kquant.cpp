// torch.ops.qcore.kquant_dequantize: the elements of blocks as GGUF files hold them.
#include <string>
#include <vector>

#include "executor.h"

namespace qcore::binding {
namespace {

constexpr const char* kDequantize = "kquant_dequantize";

const BlockFormat& find_type(const std::string& type) {
  const BlockFormat* format = find_block_format(type);
  if (!format) {
    std::string names;
    for (const BlockFormat& known : block_formats()) {
      names += names.empty() ? "" : ", ";
      names += known.name;
    }
    check(false, kDequantize, "type must be one of ", names, ", got ", type);
  }
  return *format;
}

Tensor dequantize(const Tensor& blocks, const std::string& type, int64_t k, ScalarType dtype) {
  const BlockFormat& format = find_type(type);
  check(k > 0 && k % format.elements == 0, kDequantize, "k must be a positive multiple of ",
        format.elements, ", the elements of a block of ", type, ", got ", k);
  check(is_float(dtype), kDequantize, "dtype must be float32, float16 or bfloat16, got ",
        type_name(dtype));
  const int64_t per_row = k / format.elements;
  // A row may have so many elements that its bytes overflow; a tensor cannot.
  check(blocks.scalar_type() == ScalarType::Byte && blocks.dim() >= 1 &&
            blocks.size(-1) % format.bytes == 0 && blocks.size(-1) / format.bytes == per_row,
        kDequantize, "blocks must be uint8 [..., k / ", format.elements, " * ", format.bytes,
        "] for type=", type, " k=", k, ", got ", describe(blocks));

  const Place place(kDequantize, blocks);
  std::vector<int64_t> out_sizes(sizes(blocks).begin(), sizes(blocks).end());
  out_sizes.back() = k;
  const Tensor out = torch::stable::new_empty(blocks, out_sizes, dtype);
  const Tensor dense_blocks = dense_aligned(blocks);
  check(decode_blocks(format, dense_blocks.const_data_ptr(), blocks.numel() / format.bytes,
                      to_dtype(dtype), out.mutable_data_ptr(), place.executor()),
        kDequantize);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(qcore, m) {
  m.def("kquant_dequantize(Tensor blocks, str type, int k, ScalarType dtype) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(qcore, CPU, m) {
  m.impl("kquant_dequantize", TORCH_BOX(&dequantize));
}

// In every build: one without CUDA kernels says so.
STABLE_TORCH_LIBRARY_IMPL(qcore, CUDA, m) {
  m.impl("kquant_dequantize", TORCH_BOX(&dequantize));
}

}  // namespace qcore::binding
