// Packs codes [N, K] into panel16 and back. One pass over the units; the positions are in
// panel16.h.
#include "cpu/layouts/panel16.h"

#include <cstring>

#include "formats/code_order.h"
#include "formats/packing.h"

namespace qcore::panel16 {
namespace {

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
void pack_panel(const Geometry& g, const ScaledView& weight, int64_t panel, char* packed,
                FirstBadCode& first_bad) {
  const int64_t row0 = panel * kRows;
  const int rows = static_cast<int>(std::min<int64_t>(kRows, g.n - row0));
  for (int64_t group = 0; group < g.groups; ++group) {
    for (int64_t inside = 0; inside < g.units_of(group); ++inside) {
      const UnitRange range = unit_range(g, group, inside);
      uint32_t words[unit_words(bits)] = {};
      for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < range.columns; ++c) {
          const int64_t n = row0 + r, k = range.source + c;
          const uint32_t code = code_at(weight.codes, weight.shape, n, k, HostLoad{});
          if (code >= (1u << bits)) first_bad.report(n * g.k + k);
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

PackedSizes packed_sizes(const ScaledWeight& shape) {
  if (!shape.check().ok()) return {};
  const Geometry g(shape);
  return {g.panels * g.panel_bytes(), g.parameters(), shape.has_zeros ? g.parameters() : 0};
}

Status pack(const ScaledView& weight, const PackedBuffers& packed, const Executor& executor) {
  const Geometry g(weight.shape);
  FirstBadCode first_bad;
  executor.parallel.for_range(g.panels, 1, [&](int64_t begin, int64_t end) {
    char* qweight = static_cast<char*>(packed.qweight);
    for (int64_t panel = begin; panel < end; ++panel) {
      switch (g.bits) {
        case 2: pack_panel<2>(g, weight, panel, qweight, first_bad); break;
        case 3: pack_panel<3>(g, weight, panel, qweight, first_bad); break;
        case 4: pack_panel<4>(g, weight, panel, qweight, first_bad); break;
        default: pack_panel<8>(g, weight, panel, qweight, first_bad); break;
      }
      pack_parameters(g, panel, weight.scales, packed.scales, size_of(weight.shape.scale_dtype));
      if (weight.zeros) pack_parameters(g, panel, weight.zeros, packed.zeros, 1);
    }
  });
  return first_bad.status(weight);
}

Status unpack(const PackedScaled& packed, uint8_t* codes, void* scales, uint8_t* zeros,
              const Executor& executor) {
  const Geometry g(packed.shape);
  executor.parallel.for_range(g.panels, 1, [&](int64_t begin, int64_t end) {
    const char* qweight = static_cast<const char*>(packed.qweight);
    for (int64_t panel = begin; panel < end; ++panel) {
      switch (g.bits) {
        case 2: unpack_panel<2>(g, panel, qweight, codes); break;
        case 3: unpack_panel<3>(g, panel, qweight, codes); break;
        case 4: unpack_panel<4>(g, panel, qweight, codes); break;
        default: unpack_panel<8>(g, panel, qweight, codes); break;
      }
      unpack_parameters(g, panel, packed.scales, scales, size_of(packed.shape.scale_dtype));
      if (zeros) unpack_parameters(g, panel, packed.zeros, zeros, 1);
    }
  });
  return {};
}

}  // namespace qcore::panel16
