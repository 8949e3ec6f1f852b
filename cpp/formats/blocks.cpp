#include "qcore/blocks.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "checks.h"
#include "cpu/features.h"
#include "cpu/float_mode.h"
#include "formats/blocks/blocks.h"
#include "formats/encode/encode.h"
#include "kquant/rows.h"

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

template <class Block>
void write_block(const BlockFit& fit, void* to) {
  Block block{};
  block.codes.set_all(fit.codes);
  block.set_d(fit.d);
  if constexpr (Block::kHasMin) block.set_dmin(fit.dmin);
  for (int g = 0; g < Block::kElements / Block::kGroup; ++g) {
    if constexpr (requires { block.set_group(g, 0, 0); }) {
      block.set_group(g, fit.scales[g], fit.mins[g]);
    } else if constexpr (requires { block.set_group(g, 0); }) {
      block.set_group(g, fit.scales[g]);
    }
  }
  std::memcpy(to, &block, sizeof(Block));
}

const FitBlocks* fit_blocks(Isa isa) {
  switch (isa) {
#if defined(QCORE_X86)
    case Isa::avx512: return avx512::encode::kFitBlocks;
    case Isa::avxvnni:
    case Isa::avx2: return avx2::encode::kFitBlocks;
#endif
    default: return reference::encode::kFitBlocks;
  }
}

template <class Block, int Index>
void encode_all(Isa isa, const float* w, const float* importance, int64_t count, void* blocks) {
  const FitBlocks fit = fit_blocks(isa)[Index];
  BlockFit fits[kMaxFits];
  char* to = static_cast<char*>(blocks);
  for (int64_t first = 0; first < count; first += kMaxFits) {
    const int n = static_cast<int>(std::min<int64_t>(kMaxFits, count - first));
    const int64_t at = first * Block::kElements;
    fit(w + at, importance ? importance + at : nullptr, n, fits);
    for (int i = 0; i < n; ++i, to += sizeof(Block)) write_block<Block>(fits[i], to);
  }
}

// Positions in blocks.def.
enum : int {
#define QCORE_BLOCK(name, ggml_type, elements, bytes, summary) k##name,
#include "formats/blocks/blocks.def"
#undef QCORE_BLOCK
};

template <class Block, int Index, int Elements, int Bytes>
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
          .encode = encode_all<Block, Index>,
          .split = split_all<Block>,
          .join = join_all<Block>};
}

constexpr BlockFormat kBlockFormats[] = {
#define QCORE_BLOCK(name, ggml_type, elements, bytes, summary) \
  format_of<blocks::name, k##name, elements, bytes>(#name, ggml_type),
#include "formats/blocks/blocks.def"
#undef QCORE_BLOCK
};

// So that the size of the output in bytes, also of float32, fits in int64_t.
constexpr int64_t kMaxBlocks = std::numeric_limits<int64_t>::max() / (kMaxBlockElements * 4);

// What is worth the start of another thread: tens of microseconds.
constexpr int64_t kGrainElements = 16384;
constexpr int64_t kGrainEncoded = 4096;

Status check_count(int64_t count) {
  if (count >= 0 && count <= kMaxBlocks) return {};
  return Status::invalid("count: expected 0 .. " + std::to_string(kMaxBlocks) + ", got " +
                         std::to_string(count));
}

void decode_range(const BlockFormat& format, const void* blocks, int64_t begin, int64_t end,
                  DType dtype, void* out) {
  const ExactSubnormals mode;  // MXFP4 has subnormal scales of normal elements
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

// The first of n numbers that is infinite or none, or n.
int64_t first_not_finite(const float* values, int64_t n) {
  constexpr uint32_t kMagnitude = 0x7fffffffu, kInfinity = 0x7f800000u;
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::bit_cast<uint32_t>(values[i]) & kMagnitude);
  }
  if (largest < kInfinity) return n;
  return std::find_if(values, values + n, [](float v) { return !std::isfinite(v); }) - values;
}

// Encodes blocks begin .. end - 1 of a matrix with rows of k elements. The first element that is
// not finite, or -1.
int64_t encode_range(const BlockFormat& format, Isa isa, DType dtype, const void* w, int64_t k,
                     const float* importance, int64_t begin, int64_t end, void* blocks) {
  float values[kMaxFits * kMaxBlockElements], weights[kMaxFits * kMaxBlockElements];
  for (int64_t block = begin; block < end; block += kMaxFits) {
    const int64_t count = std::min<int64_t>(kMaxFits, end - block);
    const int64_t first = block * format.elements, n = count * format.elements;
    if (dtype == DType::f32) {
      std::memcpy(values, static_cast<const float*>(w) + first, static_cast<size_t>(n) * 4);
    } else {
      for (int64_t i = 0; i < n; ++i) values[i] = load_scalar(dtype, w, first + i);
    }
    if (const int64_t i = first_not_finite(values, n); i < n) return first + i;
    for (int64_t i = 0; importance && i < n; i += format.elements) {
      std::memcpy(weights + i, importance + (first + i) % k,
                  static_cast<size_t>(format.elements) * sizeof(float));
    }
    format.encode(isa, values, importance ? weights : nullptr, count,
                  static_cast<char*>(blocks) + block * format.bytes);
  }
  return -1;
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
  return {};
}

Status decode_blocks(const BlockFormat& format, const void* blocks, int64_t count, DType dtype,
                     void* out, const Executor& executor) {
  if (Status s = check_count(count); !s.ok()) return s;
  if (Status s = check_float("dtype", dtype); !s.ok()) return s;
  if (count == 0) return {};
  if (!blocks) return missing("blocks");
  if (!out) return missing("out");
  if (executor.device == Device::cuda) {
#if QCORE_HAVE_CUDA
    return kquant::dequantize(format, {blocks, count, dtype, out}, executor);
#else
    return Status::unsupported("blocks: this build cannot decode them in the memory of a GPU");
#endif
  }
  executor.parallel.for_range(
      count, kGrainElements / format.elements,
      [&](int64_t begin, int64_t end) { decode_range(format, blocks, begin, end, dtype, out); });
  return {};
}

Status encode_blocks(const BlockFormat& format, DType dtype, const void* w, int64_t rows, int64_t k,
                     const float* importance, void* blocks, const Parallel& parallel) {
  if (k <= 0 || k % format.elements != 0) {
    return Status::invalid("k: expected a positive multiple of " + std::to_string(format.elements) +
                           ", got " + std::to_string(k));
  }
  const int64_t per_row = k / format.elements;
  if (rows < 0 || rows > kMaxBlocks / per_row) {
    return Status::invalid("rows: expected 0 .. " + std::to_string(kMaxBlocks / per_row) +
                           ", got " + std::to_string(rows));
  }
  if (Status s = check_float("dtype", dtype); !s.ok()) return s;
  const IsaChoice chosen = choose_isa();
  if (!chosen.status.ok()) return chosen.status;
  if (rows == 0) return {};
  if (!w) return missing("w");
  if (!blocks) return missing("blocks");
  for (int64_t i = 0; importance && i < k; ++i) {
    if (!(importance[i] >= 0 && importance[i] <= std::numeric_limits<float>::max())) {
      return Status::invalid("importance: expected finite numbers from 0 on, got " +
                             std::to_string(importance[i]) + " at " + std::to_string(i));
    }
  }
  if (importance &&
      std::all_of(importance, importance + k, [&](float p) { return p == *importance; })) {
    importance = nullptr;  // what is equal says nothing
  }
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> wrong = kNone;  // the first element that is not finite
  parallel.for_range(
      rows * per_row, kGrainEncoded / format.elements, [&](int64_t begin, int64_t end) {
        const int64_t at =
            encode_range(format, chosen.isa, dtype, w, k, importance, begin, end, blocks);
        int64_t before = wrong.load(std::memory_order_relaxed);
        while (at >= 0 && at < before &&
               !wrong.compare_exchange_weak(before, at, std::memory_order_relaxed)) {
        }
      });
  if (const int64_t at = wrong.load(); at != kNone) {
    return Status::invalid("w: expected finite numbers, got " +
                           std::to_string(load_scalar(dtype, w, at)) + " at row " +
                           std::to_string(at / k) + " column " + std::to_string(at % k));
  }
  return {};
}

Status split_blocks(const BlockFormat& format, const void* blocks, int64_t count, uint8_t* codes,
                    float* scales, float* mins, const Parallel& parallel) {
  if (Status s = check_count(count); !s.ok()) return s;
  if (count == 0) return {};
  if (!blocks) return missing("blocks");
  if (!codes) return missing("codes");
  if (!scales) return missing("scales");
  if (!mins) return missing("mins");
  const int64_t groups = format.elements / format.group;
  parallel.for_range(count, kGrainElements / format.elements, [&](int64_t begin, int64_t end) {
    const ExactSubnormals mode;
    format.split(static_cast<const char*>(blocks) + begin * format.bytes, end - begin,
                 codes + begin * format.elements, scales + begin * groups, mins + begin * groups);
  });
  return {};
}

Status join_blocks(const BlockFormat& format, void* blocks, int64_t count, const uint8_t* codes,
                   const Parallel& parallel) {
  if (Status s = check_count(count); !s.ok()) return s;
  if (count == 0) return {};
  if (!blocks) return missing("blocks");
  if (!codes) return missing("codes");
  const uint8_t* end_of_codes = codes + count * format.elements;
  const uint8_t* wrong =
      std::find_if(codes, end_of_codes, [&](uint8_t code) { return code >= format.codes; });
  if (wrong != end_of_codes) {
    return Status::invalid("codes: expected 0 .. " + std::to_string(format.codes - 1) + ", got " +
                           std::to_string(*wrong) + " at " + std::to_string(wrong - codes));
  }
  parallel.for_range(count, kGrainElements / format.elements, [&](int64_t begin, int64_t end) {
    format.join(static_cast<char*>(blocks) + begin * format.bytes, end - begin,
                codes + begin * format.elements);
  });
  return {};
}

}  // namespace qcore
