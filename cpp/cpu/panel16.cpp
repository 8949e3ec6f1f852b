// Packs codes [N, K] into panel16 and back. One pass over the units; the positions are in
// panel16.h.
#include "cpu/panel16.h"

#include <atomic>
#include <cstring>
#include <limits>
#include <string>

namespace qcore::panel16 {
namespace {

constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

void lower(std::atomic<int64_t>& first, int64_t index) {
  int64_t seen = first.load(std::memory_order_relaxed);
  while (index < seen && !first.compare_exchange_weak(seen, index, std::memory_order_relaxed)) {
  }
}

Status out_of_range(const char* argument, const char* column, const uint8_t* values, int64_t index,
                    int64_t row_length, int bits) {
  return Status::invalid(std::string(argument) + ": expected values below " +
                         std::to_string(1 << bits) + " (bits = " + std::to_string(bits) +
                         "), got " + std::to_string(values[index]) +
                         " at n = " + std::to_string(index / row_length) + ", " + column + " = " +
                         std::to_string(index % row_length));
}

Status missing(const char* argument) {
  return Status::invalid(std::string(argument) + ": expected a pointer, got null");
}

Status check_zeros(const IntGroup& shape, const char* argument, const void* zeros) {
  if (shape.has_zeros == (zeros != nullptr) || shape.n == 0) return {};
  return shape.has_zeros ? missing(argument)
                         : Status::invalid(std::string(argument) +
                                           ": expected null, because the weight is symmetric");
}

// Rows and columns of the weight inside the unit; `source` is its first column.
struct UnitRange {
  int64_t unit, source;
  int columns;
};

constexpr UnitRange unit_range(const Geometry& g, int64_t group, int64_t inside) {
  const int64_t first = inside * kUnitColumns;
  return {group * g.group_units + inside, group * g.group_size + first,
          static_cast<int>(std::min<int64_t>(kUnitColumns, g.columns_of(group) - first))};
}

template <int bits>
void pack_panel(const Geometry& g, int64_t panel, const uint8_t* codes, char* packed,
                std::atomic<int64_t>& first_bad) {
  const int64_t row0 = panel * kRows;
  const int rows = static_cast<int>(std::min<int64_t>(kRows, g.n - row0));
  for (int64_t group = 0; group < g.groups; ++group) {
    for (int64_t inside = 0; inside < g.units_of(group); ++inside) {
      const UnitRange range = unit_range(g, group, inside);
      uint32_t words[unit_words(bits)] = {};
      for (int r = 0; r < rows; ++r) {
        const int64_t base = (row0 + r) * g.k + range.source;
        for (int c = 0; c < range.columns; ++c) {
          const uint32_t code = codes[base + c];
          if (code >= (1u << bits)) lower(first_bad, base + c);
          put_code(words, bits, c, r, code & ((1u << bits) - 1u));
        }
      }
      std::memcpy(packed + g.unit_offset(panel, range.unit), words, sizeof words);
    }
  }
}

template <int bits>
void unpack_panel(const Geometry& g, int64_t panel, const char* packed, uint8_t* codes) {
  const int64_t row0 = panel * kRows;
  const int rows = static_cast<int>(std::min<int64_t>(kRows, g.n - row0));
  for (int64_t group = 0; group < g.groups; ++group) {
    for (int64_t inside = 0; inside < g.units_of(group); ++inside) {
      const UnitRange range = unit_range(g, group, inside);
      uint32_t words[unit_words(bits)];
      std::memcpy(words, packed + g.unit_offset(panel, range.unit), sizeof words);
      for (int r = 0; r < rows; ++r) {
        uint8_t* row = codes + (row0 + r) * g.k + range.source;
        for (int c = 0; c < range.columns; ++c) {
          row[c] = static_cast<uint8_t>(get_code(words, bits, c, r));
        }
      }
    }
  }
}

// [N, G] elements of `size` bytes to [panel][group][16], and back.
void pack_parameters(const Geometry& g, int64_t panel, const void* from, void* to, int64_t size) {
  const char* source = static_cast<const char*>(from);
  char* target = static_cast<char*>(to) + g.group_offset(panel, 0) * size;
  std::memset(target, 0, static_cast<size_t>(g.groups * kRows * size));
  const int64_t row0 = panel * kRows;
  for (int64_t r = 0; r < std::min<int64_t>(kRows, g.n - row0); ++r) {
    for (int64_t group = 0; group < g.groups; ++group) {
      std::memcpy(target + (group * kRows + r) * size,
                  source + ((row0 + r) * g.groups + group) * size, static_cast<size_t>(size));
    }
  }
}

void unpack_parameters(const Geometry& g, int64_t panel, const void* from, void* to, int64_t size) {
  const char* source = static_cast<const char*>(from) + g.group_offset(panel, 0) * size;
  char* target = static_cast<char*>(to);
  const int64_t row0 = panel * kRows;
  for (int64_t r = 0; r < std::min<int64_t>(kRows, g.n - row0); ++r) {
    for (int64_t group = 0; group < g.groups; ++group) {
      std::memcpy(target + ((row0 + r) * g.groups + group) * size,
                  source + (group * kRows + r) * size, static_cast<size_t>(size));
    }
  }
}

}  // namespace

PackedSizes packed_sizes(const IntGroup& shape) {
  if (!shape.check().ok()) return {};
  const Geometry g(shape);
  return {g.panels * g.panel_bytes(), g.parameters(), shape.has_zeros ? g.parameters() : 0};
}

Status pack(const IntGroup& shape, const uint8_t* codes, const void* scales, const uint8_t* zeros,
            void* packed_qweight, void* packed_scales, uint8_t* packed_zeros,
            const Parallel& parallel) {
  if (Status status = shape.check(); !status.ok()) return status;
  if (Status status = check_zeros(shape, "zeros", zeros); !status.ok()) return status;
  if (Status status = check_zeros(shape, "packed_zeros", packed_zeros); !status.ok()) return status;
  if (shape.n == 0) return {};
  if (!codes) return missing("codes");
  if (!scales) return missing("scales");
  if (!packed_qweight) return missing("packed_qweight");
  if (!packed_scales) return missing("packed_scales");

  const Geometry g(shape);
  if (zeros) {
    for (int64_t i = 0; i < shape.n * g.groups; ++i) {
      if (zeros[i] >> shape.bits) {
        return out_of_range("zeros", "group", zeros, i, g.groups, shape.bits);
      }
    }
  }
  std::atomic<int64_t> first_bad{kNone};
  parallel.for_range(g.panels, 1, [&](int64_t begin, int64_t end) {
    char* packed = static_cast<char*>(packed_qweight);
    for (int64_t panel = begin; panel < end; ++panel) {
      switch (shape.bits) {
        case 2: pack_panel<2>(g, panel, codes, packed, first_bad); break;
        case 3: pack_panel<3>(g, panel, codes, packed, first_bad); break;
        case 4: pack_panel<4>(g, panel, codes, packed, first_bad); break;
        default: pack_panel<8>(g, panel, codes, packed, first_bad); break;
      }
      pack_parameters(g, panel, scales, packed_scales, size_of(shape.scale_dtype));
      if (zeros) pack_parameters(g, panel, zeros, packed_zeros, 1);
    }
  });
  if (const int64_t index = first_bad.load(); index != kNone) {
    return out_of_range("codes", "k", codes, index, shape.k, shape.bits);
  }
  return {};
}

Status unpack(const PackedIntGroup& packed, uint8_t* codes, void* scales, uint8_t* zeros,
              const Parallel& parallel) {
  const IntGroup& shape = packed.shape;
  if (Status status = shape.check(); !status.ok()) return status;
  if (packed.layout != kLayout) {
    return Status::invalid("layout: expected " + std::to_string(kLayout) + " (panel16), got " +
                           std::to_string(packed.layout));
  }
  if (Status status = check_zeros(shape, "zeros", zeros); !status.ok()) return status;
  if (Status status = check_zeros(shape, "packed zeros", packed.zeros); !status.ok()) return status;
  if (shape.n == 0) return {};
  if (!packed.qweight) return missing("packed qweight");
  if (!packed.scales) return missing("packed scales");
  if (!codes) return missing("codes");
  if (!scales) return missing("scales");

  const Geometry g(shape);
  parallel.for_range(g.panels, 1, [&](int64_t begin, int64_t end) {
    const char* qweight = static_cast<const char*>(packed.qweight);
    for (int64_t panel = begin; panel < end; ++panel) {
      switch (shape.bits) {
        case 2: unpack_panel<2>(g, panel, qweight, codes); break;
        case 3: unpack_panel<3>(g, panel, qweight, codes); break;
        case 4: unpack_panel<4>(g, panel, qweight, codes); break;
        default: unpack_panel<8>(g, panel, qweight, codes); break;
      }
      unpack_parameters(g, panel, packed.scales, scales, size_of(shape.scale_dtype));
      if (zeros) unpack_parameters(g, panel, packed.zeros, zeros, 1);
    }
  });
  return {};
}

}  // namespace qcore::panel16
