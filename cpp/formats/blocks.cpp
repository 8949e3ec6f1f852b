#include "qcore/blocks.h"

#include <cstring>
#include <limits>
#include <string>

#include "formats/blocks/iq4.h"
#include "formats/blocks/mxfp4.h"
#include "formats/blocks/q2_k.h"
#include "formats/blocks/q3_k.h"
#include "formats/blocks/q4.h"
#include "formats/blocks/q4_k.h"
#include "formats/blocks/q5.h"
#include "formats/blocks/q6_k.h"
#include "formats/blocks/q8.h"
#include "formats/blocks/tq.h"

namespace qcore {
namespace {

template <class Block, int Elements, int Bytes>
void decode_all(const void* blocks, int64_t count, float* out) {
  static_assert(sizeof(Block) == Bytes && alignof(Block) == 1 && Elements <= kMaxBlockElements);
  const char* from = static_cast<const char*>(blocks);
  for (int64_t i = 0; i < count; ++i, from += Bytes, out += Elements) {
    Block block;
    std::memcpy(&block, from, sizeof(block));
    block.decode(out);
  }
}

constexpr BlockFormat kBlockFormats[] = {
#define QCORE_BLOCK(name, ggml_type, elements, bytes, summary) \
  {#name, ggml_type, elements, bytes, decode_all<blocks::name, elements, bytes>},
#include "formats/blocks/blocks.def"
#undef QCORE_BLOCK
};

// So that the size of the output in bytes, also of float32, fits in int64_t.
constexpr int64_t kMaxBlocks = std::numeric_limits<int64_t>::max() / (kMaxBlockElements * 4);

// What is worth the start of another thread: tens of microseconds of decoding.
constexpr int64_t kGrainElements = 16384;

Status missing(const char* argument) {
  return Status::invalid(std::string(argument) + ": expected a pointer, got null");
}

void decode_range(const BlockFormat& format, const void* blocks, int64_t begin, int64_t end,
                  DType dtype, void* out) {
  const char* from = static_cast<const char*>(blocks) + begin * format.bytes;
  if (dtype == DType::f32) {
    format.decode(from, end - begin, static_cast<float*>(out) + begin * format.elements);
    return;
  }
  float values[kMaxBlockElements];
  for (int64_t block = begin; block < end; ++block, from += format.bytes) {
    format.decode(from, 1, values);
    for (int i = 0; i < format.elements; ++i) {
      store_scalar(dtype, out, block * format.elements + i, values[i]);
    }
  }
}

}  // namespace

std::span<const BlockFormat> block_formats() {
  return kBlockFormats;
}

const BlockFormat* find_block_format(std::string_view name) {
  for (const BlockFormat& format : kBlockFormats) {
    if (name == format.name) return &format;
  }
  return nullptr;
}

Status decode_blocks(const BlockFormat& format, const void* blocks, int64_t count, DType dtype,
                     void* out, const Parallel& parallel) {
  if (count < 0 || count > kMaxBlocks) {
    return Status::invalid("count: expected 0 .. " + std::to_string(kMaxBlocks) + ", got " +
                           std::to_string(count));
  }
  if (dtype != DType::f32 && dtype != DType::f16 && dtype != DType::bf16) {
    return Status::invalid("dtype: expected f32, f16 or bf16, got " +
                           std::to_string(static_cast<int>(dtype)));
  }
  if (count == 0) return {};
  if (!blocks) return missing("blocks");
  if (!out) return missing("out");
  parallel.for_range(count, kGrainElements / format.elements, [&](int64_t begin, int64_t end) {
    decode_range(format, blocks, begin, end, dtype, out);
  });
  return {};
}

}  // namespace qcore
