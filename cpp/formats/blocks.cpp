// The list of block formats: decoding, splitting and joining of each, made from its codec.
#include "qcore/blocks.h"

#include <array>
#include <cstring>
#include <string>

#include "formats/blocks/blocks.h"
#include "qcore/formats.h"

namespace qcore {
namespace {

template <class Block>
constexpr std::array<int8_t, Block::kCodes> values_of() {
  std::array<int8_t, Block::kCodes> values{};
  for (int code = 0; code < Block::kCodes; ++code) {
    values[static_cast<size_t>(code)] = static_cast<int8_t>(Block::value(code));
  }
  return values;
}
template <class Block>
constexpr std::array<int8_t, Block::kCodes> kValues = values_of<Block>();

// Whether the values are a first one plus the code: arithmetic is then faster than a table.
template <class Block>
constexpr bool has_even_values() {
  return Block::value(Block::kCodes - 1) - Block::value(0) == Block::kCodes - 1;
}

// The elements of a group.
template <class Block>
void decode_group(const uint8_t* codes, float scale, float min, float* out) {
  if constexpr (has_even_values<Block>()) {
    for (int i = 0; i < Block::kGroup; ++i) {
      const float element = scale * static_cast<float>(Block::value(codes[i]));
      out[i] = Block::kHasMin ? element - min : element;
    }
  } else {
    static_assert(!Block::kHasMin);
    float elements[Block::kCodes];
    for (int code = 0; code < Block::kCodes; ++code) {
      elements[code] = scale * static_cast<float>(Block::value(code));
    }
    for (int i = 0; i < Block::kGroup; ++i) out[i] = elements[codes[i]];
  }
}

template <class Block>
Block load(const void* blocks, int64_t i) {
  Block block;
  std::memcpy(&block, static_cast<const char*>(blocks) + i * int64_t{sizeof(Block)}, sizeof(Block));
  return block;
}

template <class Block>
void split_block(const Block& block, uint8_t* codes, float* scales, float* mins) {
  block.codes.get_all(codes);
  const float d = block.d(), dmin = block.dmin();
  for (int g = 0; g < Block::kElements / Block::kGroup; ++g) {
    scales[g] = d * static_cast<float>(block.group_scale(g));
    mins[g] = Block::kHasMin ? dmin * static_cast<float>(block.group_min(g)) : 0.0f;
  }
}

template <class Block>
void decode_all(const void* blocks, int64_t count, float* out) {
  constexpr int kGroups = Block::kElements / Block::kGroup;
  uint8_t codes[Block::kElements];
  float scales[kGroups], mins[kGroups];
  for (int64_t b = 0; b < count; ++b) {
    split_block(load<Block>(blocks, b), codes, scales, mins);
    for (int g = 0; g < kGroups; ++g, out += Block::kGroup) {
      decode_group<Block>(codes + g * Block::kGroup, scales[g], mins[g], out);
    }
  }
}

template <class Block>
void split_all(const void* blocks, int64_t count, uint8_t* codes, float* scales, float* mins) {
  constexpr int kGroups = Block::kElements / Block::kGroup;
  for (int64_t b = 0; b < count; ++b) {
    split_block(load<Block>(blocks, b), codes, scales, mins);
    codes += Block::kElements;
    scales += kGroups;
    mins += kGroups;
  }
}

template <class Block>
void join_all(void* blocks, int64_t count, const uint8_t* codes) {
  char* to = static_cast<char*>(blocks);
  for (int64_t b = 0; b < count; ++b, to += sizeof(Block), codes += Block::kElements) {
    Block block = load<Block>(to, 0);
    block.codes.set_all(codes);
    std::memcpy(to, &block, sizeof(Block));
  }
}

template <class Block, int Elements, int Bytes>
constexpr BlockFormat format_of(const char* name, int ggml_type) {
  static_assert(sizeof(Block) == Bytes && alignof(Block) == 1 && Elements == Block::kElements);
  static_assert(Elements <= kMaxBlockElements && Elements % Block::kGroup == 0);
  return {.name = name,
          .ggml_type = ggml_type,
          .elements = Elements,
          .bytes = Bytes,
          .group = Block::kGroup,
          .codes = Block::kCodes,
          .values = kValues<Block>.data(),
          .has_min = Block::kHasMin,
          .decode = decode_all<Block>,
          .split = split_all<Block>,
          .join = join_all<Block>};
}

constexpr BlockFormat kBlockFormats[] = {
#define QCORE_BLOCK(name, ggml_type, elements, bytes, summary) \
  format_of<blocks::name, elements, bytes>(#name, ggml_type),
#include "formats/blocks/blocks.def"
#undef QCORE_BLOCK
};

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

Status BlockShape::check() const {
  // As for int_group: every size derived from them fits in int64_t.
  constexpr int64_t kMaxRows = (int64_t{1} << 31) - 1;
  constexpr int64_t kMaxColumns = int64_t{1} << 26;
  if (!format) return Status::invalid("format: expected one of block_formats(), got null");
  if (n < 0 || n > kMaxRows) {
    return Status::invalid("n: expected 0 .. " + std::to_string(kMaxRows) + ", got " +
                           std::to_string(n));
  }
  if (k < 1 || k > kMaxColumns || k % format->elements != 0) {
    return Status::invalid("k: expected 1 .. " + std::to_string(kMaxColumns) +
                           " and a multiple of " + std::to_string(format->elements) +
                           ", the elements of a block of " + format->name + ", got " +
                           std::to_string(k));
  }
  return check_experts(experts, n);
}

}  // namespace qcore
