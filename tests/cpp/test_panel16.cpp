#include <gtest/gtest.h>

#include <set>

#include "cases.h"
#include "cpu/layouts/panel16.h"

namespace qcore {
namespace {

using namespace testing;

TEST(Panel16, FieldsOfAUnitAreDisjointAndFillIt) {
  for (const int bits : {2, 3, 4, 8}) {
    std::set<std::pair<int, int>> taken;  // (dword, bit)
    for (int c = 0; c < panel16::kUnitColumns; ++c) {
      const panel16::Field f = panel16::field_of(bits, c);
      for (int i = 0; i < f.count; ++i) EXPECT_TRUE(taken.insert({f.word, f.shift + i}).second);
      if (f.high_shift >= 0) {
        EXPECT_TRUE(taken.insert({2, f.high_shift}).second);
      }
    }
    EXPECT_EQ(taken.size(), static_cast<size_t>(32 * bits));
  }
}

TEST(Panel16, FourBitsAreWhereTheLayoutSaysTheyAre) {
  // Row 5, columns 8..15 of one unit: dword 1 of lane 5, column 8 in the lowest nibble, code XOR 8.
  Weight w{{.n = 16, .k = 32, .group_size = 32, .elements = Elements::u4},
           std::vector<uint8_t>(16 * 32, 8),
           Buffer(DType::f32, 16),
           {}};
  for (int c = 0; c < 8; ++c)
    w.codes[static_cast<size_t>(5 * 32 + 8 + c)] = static_cast<uint8_t>(c);
  const Packed p = pack(panel16::layout, w);
  ASSERT_TRUE(p.status.ok()) << p.status.message();
  ASSERT_EQ(p.qweight.size(), 256u);
  uint32_t words[64];
  std::memcpy(words, p.qweight.data(), sizeof words);
  for (int i = 0; i < 64; ++i) EXPECT_EQ(words[i], i == 16 + 5 ? 0xfedcba98u : 0u) << i;
}

TEST(Panel16, SegmentsCoverKOnceAndStayInTheirGroup) {
  Rng rng(1);
  for (int i = 0; i < 200; ++i) {
    const ScaledWeight shape = random_case(rng).weight;
    const panel16::Geometry g(shape);
    int64_t source = 0, unit = 0;
    for (int64_t s = 0; s < g.segments(); ++s) {
      const panel16::Segment segment = panel16::segment_at(g, s);
      EXPECT_EQ(segment.source, source);
      EXPECT_EQ(segment.unit, unit);
      EXPECT_EQ(segment.group, source / shape.group_size);
      EXPECT_GT(segment.real, 0);
      EXPECT_LE(segment.real, segment.columns);
      EXPECT_LE(segment.columns, panel16::kSegmentColumns);
      source += segment.real;
      unit += segment.columns / panel16::kUnitColumns;
    }
    EXPECT_EQ(source, shape.k);
    EXPECT_EQ(unit, g.units());
  }
}

}  // namespace
}  // namespace qcore
