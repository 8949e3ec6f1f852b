// torch.ops.qcore.kquant_quantize, kquant_dequantize, kquant_split and kquant_join: blocks of GGUF
// files made of elements, and what they hold, as elements or as codes and scales, and other codes
// for them.
#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "executor.h"
#include "kquant_blocks.h"
#include "registration.h"

namespace qcore::binding {
namespace {

constexpr const char* kQuantize = "kquant_quantize";
constexpr const char* kDequantize = "kquant_dequantize";
constexpr const char* kSplit = "kquant_split";
constexpr const char* kJoin = "kquant_join";

Tensor quantize(const Tensor& w, const std::string& type, const std::optional<Tensor>& importance) {
  check(is_float(w) && w.dim() >= 1, kQuantize,
        "w must be float32, float16 or bfloat16 [..., k], got ", describe(w));
  const int64_t k = w.size(-1);
  const BlockFormat& format = find_format(kQuantize, type, k);
  if (importance) {
    check(importance->scalar_type() == ScalarType::Float && has_sizes(*importance, {k}), kQuantize,
          "importance must be float32 [", k, "], got ", describe(*importance));
    check_same_device(kQuantize, "importance", *importance, "w", w);
  }

  const Place place(kQuantize, w);
  const Tensor blocks = new_rows(w, k / format.elements * format.bytes, ScalarType::Byte);
  const Tensor dense_w = dense(w), weight_of = importance ? dense(*importance) : w;
  check(encode_blocks(format, to_dtype(w.scalar_type()), dense_w.const_data_ptr(), w.numel() / k, k,
                      importance ? static_cast<const float*>(weight_of.const_data_ptr()) : nullptr,
                      blocks.mutable_data_ptr(), place.executor().parallel),
        kQuantize);
  return blocks;
}

Tensor dequantize(const Tensor& blocks, const std::string& type, int64_t k, ScalarType dtype) {
  const BlockFormat& format = find_format(kDequantize, type, k);
  check(is_float(dtype), kDequantize, "dtype must be float32, float16 or bfloat16, got ",
        type_name(dtype));
  check_blocks(kDequantize, format, k, blocks);

  const Place place(kDequantize, blocks);
  const Tensor out = new_rows(blocks, k, dtype);
  const Tensor dense_blocks = dense_aligned(blocks);
  check(decode_blocks(format, dense_blocks.const_data_ptr(), blocks.numel() / format.bytes,
                      to_dtype(dtype), out.mutable_data_ptr(), place.executor()),
        kDequantize);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> split(const Tensor& blocks, const std::string& type, int64_t k) {
  const BlockFormat& format = find_format(kSplit, type, k);
  check_blocks(kSplit, format, k, blocks);

  const Place place(kSplit, blocks);
  const Tensor codes = new_rows(blocks, k, ScalarType::Byte);
  const Tensor scales = new_rows(blocks, k / format.group, ScalarType::Float);
  const Tensor mins = new_rows(blocks, k / format.group, ScalarType::Float);
  const Tensor dense_blocks = dense(blocks);
  check(split_blocks(format, dense_blocks.const_data_ptr(), blocks.numel() / format.bytes,
                     static_cast<uint8_t*>(codes.mutable_data_ptr()),
                     static_cast<float*>(scales.mutable_data_ptr()),
                     static_cast<float*>(mins.mutable_data_ptr()), place.executor().parallel),
        kSplit);
  return {codes, scales, mins};
}

Tensor join(const Tensor& blocks, const std::string& type, int64_t k, const Tensor& codes) {
  const BlockFormat& format = find_format(kJoin, type, k);
  check_blocks(kJoin, format, k, blocks);
  std::vector<int64_t> expected(sizes(blocks).begin(), sizes(blocks).end());
  expected.back() = k;
  check(codes.scalar_type() == ScalarType::Byte && std::ranges::equal(sizes(codes), expected),
        kJoin, "codes must be uint8 [..., k], with the rows of blocks, for k=", k, ", got ",
        describe(codes));
  check_same_device(kJoin, "codes", codes, "blocks", blocks);

  const Place place(kJoin, blocks);
  const Tensor dense_codes = dense(codes), dense_blocks = dense(blocks);
  const auto* code = static_cast<const uint8_t*>(dense_codes.const_data_ptr());
  check(std::all_of(code, code + codes.numel(), [&](int each) { return each < format.codes; }),
        kJoin, "codes must be below ", format.codes, " for type=", type);
  const Tensor out = new_rows(blocks, blocks.size(-1), ScalarType::Byte);
  if (blocks.numel() != 0) {
    std::memcpy(out.mutable_data_ptr(), dense_blocks.const_data_ptr(),
                static_cast<size_t>(blocks.numel()));
  }
  check(join_blocks(format, out.mutable_data_ptr(), blocks.numel() / format.bytes, code,
                    place.executor().parallel),
        kJoin);
  return out;
}

const Registration registration{
    {"kquant_quantize(Tensor w, str type, Tensor? importance=None) -> Tensor", TORCH_BOX(&quantize),
     kCpuOnly},
    {"kquant_dequantize(Tensor blocks, str type, SymInt k, ScalarType dtype) -> Tensor",
     TORCH_BOX(&dequantize)},
    {"kquant_split(Tensor blocks, str type, SymInt k) -> (Tensor, Tensor, Tensor)",
     TORCH_BOX(&split), kCpuOnly},
    {"kquant_join(Tensor blocks, str type, SymInt k, Tensor codes) -> Tensor", TORCH_BOX(&join),
     kCpuOnly},
};

}  // namespace

}  // namespace qcore::binding
