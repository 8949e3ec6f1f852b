#include "cpu/layouts/block16.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

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

// GGUF's numbers.
enum : int {
#define QCORE_BLOCK(name, ggml_type, elements, bytes, summary) kGgml##name = ggml_type,
#include "formats/blocks/blocks.def"
#undef QCORE_BLOCK
};

// What is worth the start of another thread.
constexpr int64_t kGrainBytes = 1 << 17;

// Four times four dwords; those side by side at `from` go `to_stride` bytes apart, and the other
// way round.
void transpose4(const char* from, int64_t from_stride, char* to, int64_t to_stride) {
#if defined(__SSE2__)
  const auto load = [&](int i) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * from_stride));
  };
  const auto store = [&](int i, __m128i v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * to_stride), v);
  };
  const __m128i a = load(0), b = load(1), c = load(2), d = load(3);
  const __m128i ab = _mm_unpacklo_epi32(a, b), cd = _mm_unpacklo_epi32(c, d);
  const __m128i ab2 = _mm_unpackhi_epi32(a, b), cd2 = _mm_unpackhi_epi32(c, d);
  store(0, _mm_unpacklo_epi64(ab, cd));
  store(1, _mm_unpackhi_epi64(ab, cd));
  store(2, _mm_unpacklo_epi64(ab2, cd2));
  store(3, _mm_unpackhi_epi64(ab2, cd2));
#else
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j)
      std::memcpy(to + i * to_stride + 4 * j, from + j * from_stride + 4 * i, 4);
  }
#endif
}

// One panel, from blocks to packed bytes if Blocks are const, else back.
template <class Blocks, class Packed>
class Panel {
 public:
  Panel(const BlockFormat& format, const Geometry& g, int64_t panel)
      : fields_(fields_of(format)),
        rows_(std::min<int64_t>(kRows, g.n - panel * kRows)),
        row_bytes_(g.blocks * format.bytes) {}

  // Dwords of whole panels move sixteen at a time, where four stand side by side in the block.
  void copy_strip(Blocks* block, Packed* dwords, Packed* rest) const {
    for (int i = 0; i < fields_.dwords;) {
      const bool four = rows_ == kRows && four_at(i);
      copy_dwords(block + offset(i), dwords + i * 64, four);
      i += four ? 4 : 1;
    }
    block += fields_.rest_offset;
    for (int64_t r = 0; r < rows_; ++r, block += row_bytes_, rest += fields_.rest) {
      for (int i = 0; i < fields_.rest; ++i) move(block + i, rest + i, 1);
    }
  }

 private:
  static constexpr bool kPacks = std::is_const_v<Blocks>;

  int64_t offset(int i) const { return fields_.offset[static_cast<size_t>(i)]; }
  bool four_at(int i) const {
    return i + 4 <= fields_.dwords && offset(i + 1) == offset(i) + 4 &&
           offset(i + 2) == offset(i) + 8 && offset(i + 3) == offset(i) + 12;
  }
  static void move(Blocks* block, Packed* packed, size_t size) {
    if constexpr (kPacks) {
      std::memcpy(packed, block, size);
    } else {
      std::memcpy(block, packed, size);
    }
  }
  void copy_dwords(Blocks* block, Packed* dwords, bool four) const {
    if (!four) {
      for (int64_t r = 0; r < rows_; ++r) move(block + r * row_bytes_, dwords + r * 4, 4);
      return;
    }
    for (int64_t r = 0; r < kRows; r += 4) {
      if constexpr (kPacks) {
        transpose4(block + r * row_bytes_, row_bytes_, dwords + r * 4, 64);
      } else {
        transpose4(dwords + r * 4, 64, block + r * row_bytes_, row_bytes_);
      }
    }
  }

  Fields fields_;
  int64_t rows_, row_bytes_;
};

template <class Blocks, class Packed>
void copy_panel(const BlockFormat& format, const Geometry& g, int64_t panel, Blocks* blocks,
                Packed* packed) {
  const Panel<Blocks, Packed> copier(format, g, panel);
  for (int64_t b = 0; b < g.blocks; ++b) {
    copier.copy_strip(blocks + (panel * kRows * g.blocks + b) * format.bytes,
                      packed + g.dwords_at(panel, b), packed + g.rest_at(panel, b));
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
    case kGgmlQ6_K:  // scales; then of each half of the block low, high and again low bits
      append(fields, {Run{192, 4}, Run{0, 8}, Run{128, 8}, Run{32, 8}, Run{64, 8}, Run{160, 8},
                      Run{96, 8}});
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
  const Geometry g(shape);
  const char* from = static_cast<const char*>(blocks);
  char* to = static_cast<char*>(packed);
  executor.parallel.for_range(g.panels, grain(g), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      if (g.n - panel * kRows < kRows) {
        std::memset(to + g.dwords_at(panel, 0), 0, static_cast<size_t>(g.blocks * g.dword_bytes));
        std::memset(to + g.rest_at(panel, 0), 0, static_cast<size_t>(g.blocks * g.rest_bytes));
      }
      copy_panel(*shape.format, g, panel, from, to);
    }
  });
  return {};
}

Status unpack(const PackedBlocks& packed, void* blocks, const Executor& executor) {
  const Geometry g(packed.shape);
  const char* from = static_cast<const char*>(packed.data);
  char* to = static_cast<char*>(blocks);
  executor.parallel.for_range(g.panels, grain(g), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      copy_panel(*packed.shape.format, g, panel, to, from);
    }
  });
  return {};
}

}  // namespace qcore::block16
