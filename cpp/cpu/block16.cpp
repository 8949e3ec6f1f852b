#include "cpu/block16.h"

#include <algorithm>
#include <cstring>

namespace qcore::block16 {
namespace {

// A run of dwords of the block.
struct Run {
  int offset, dwords;
};

template <size_t N>
void append(Fields& fields, const Run (&runs)[N]) {
  for (const Run& run : runs) {
    for (int i = 0; i < run.dwords; ++i) {
      fields.offset[static_cast<size_t>(fields.dwords++)] =
          static_cast<uint8_t>(run.offset + 4 * i);
    }
  }
}

constexpr int kGgmlQ2_K = 10, kGgmlQ3_K = 11, kGgmlQ6_K = 14;

// What is worth the start of another thread.
constexpr int64_t kGrainBytes = 1 << 17;

// Calls copy(byte of the block matrix, byte of the packed weight, size) for all fields of a panel.
template <class Copy>
void for_each_field(const BlockFormat& format, const Fields& fields, const Geometry& g,
                    int64_t panel, Copy copy) {
  const int64_t row_bytes = g.blocks * format.bytes;
  const int64_t rows = std::min<int64_t>(kRows, g.n - panel * kRows);
  for (int64_t b = 0; b < g.blocks; ++b) {
    const int64_t block = panel * kRows * row_bytes + b * format.bytes;
    const int64_t dwords = g.dwords_at(panel, b);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t from = block + r * row_bytes;
      for (int i = 0; i < fields.dwords; ++i) {
        copy(from + fields.offset[static_cast<size_t>(i)], dwords + i * 64 + r * 4, 4);
      }
      if (fields.rest == 2) copy(from + fields.rest_offset, g.rest_at(panel, b) + r * 2, 2);
      if (fields.rest == 1) copy(from + fields.rest_offset, g.rest_at(panel, b) + r, 1);
    }
  }
}

int64_t grain(const Geometry& g) {
  return std::max<int64_t>(1, kGrainBytes / std::max<int64_t>(1, g.bytes() / g.panels));
}

}  // namespace

Fields fields_of(const BlockFormat& format) {
  Fields fields;
  const int dwords = format.bytes / 4;
  fields.rest = format.bytes % 4;
  switch (format.ggml_type) {
    case kGgmlQ2_K:  // d and dmin, then scales, then codes
      append(fields, {Run{80, 1}, Run{0, 4}, Run{16, 16}});
      break;
    case kGgmlQ3_K:  // scales, high bits, low bits; the half is last
      append(fields, {Run{96, 3}, Run{0, 8}, Run{32, 16}});
      fields.rest_offset = format.bytes - 2;
      break;
    case kGgmlQ6_K:  // scales, then low and high bits of each half of the block
      append(fields, {Run{192, 4}, Run{0, 16}, Run{128, 8}, Run{64, 16}, Run{160, 8}});
      fields.rest_offset = format.bytes - 2;
      break;
    default:
      // Blocks of 32 begin with their scale, TQ1_0 and TQ2_0 end with it.
      fields.rest_offset = format.elements == 32 ? 0 : format.bytes - fields.rest;
      append(fields, {Run{format.elements == 32 ? fields.rest : 0, dwords}});
  }
  return fields;
}

int64_t packed_bytes(const BlockShape& shape) {
  return shape.check().ok() ? Geometry(shape).bytes() : 0;
}

Status pack(const BlockShape& shape, const void* blocks, void* packed, const Executor& executor) {
  const BlockFormat& format = *shape.format;
  const Geometry g(shape);
  const Fields fields = fields_of(format);
  const char* from = static_cast<const char*>(blocks);
  char* to = static_cast<char*>(packed);
  executor.parallel.for_range(g.panels, grain(g), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      if (g.n - panel * kRows < kRows) {
        std::memset(to + g.dwords_at(panel, 0), 0, static_cast<size_t>(g.blocks * g.dword_bytes));
        std::memset(to + g.rest_at(panel, 0), 0, static_cast<size_t>(g.blocks * g.rest_bytes));
      }
      for_each_field(format, fields, g, panel, [&](int64_t in, int64_t out, size_t size) {
        std::memcpy(to + out, from + in, size);
      });
    }
  });
  return {};
}

Status unpack(const PackedBlocks& packed, void* blocks, const Executor& executor) {
  const BlockFormat& format = *packed.shape.format;
  const Geometry g(packed.shape);
  const Fields fields = fields_of(format);
  const char* from = static_cast<const char*>(packed.data);
  char* to = static_cast<char*>(blocks);
  executor.parallel.for_range(g.panels, grain(g), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      for_each_field(format, fields, g, panel, [&](int64_t in, int64_t out, size_t size) {
        std::memcpy(to + in, from + out, size);
      });
    }
  });
  return {};
}

}  // namespace qcore::block16
