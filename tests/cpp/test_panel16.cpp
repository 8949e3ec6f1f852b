#include <gtest/gtest.h>

#include <set>

#include "cases.h"
#include "cpu/panel16.h"
#include "thread_pool.h"

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
  Weight w{{.n = 16, .k = 32, .group_size = 32, .bits = 4},
           std::vector<uint8_t>(16 * 32, 8),
           Buffer(DType::f32, 16),
           {}};
  for (int c = 0; c < 8; ++c)
    w.codes[static_cast<size_t>(5 * 32 + 8 + c)] = static_cast<uint8_t>(c);
  const Packed p = pack(*runnable_rows("w4a16").front(), w);
  ASSERT_TRUE(p.status.ok()) << p.status.message();
  ASSERT_EQ(p.qweight.size(), 256u);
  uint32_t words[64];
  std::memcpy(words, p.qweight.data(), sizeof words);
  for (int i = 0; i < 64; ++i) EXPECT_EQ(words[i], i == 16 + 5 ? 0xfedcba98u : 0u) << i;
}

TEST(Panel16, SegmentsCoverKOnceAndStayInTheirGroup) {
  Rng rng(1);
  for (int i = 0; i < 200; ++i) {
    const IntGroup shape = random_case(rng).weight;
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

// One row for each packing: several rows share a layout.
std::vector<const KernelRow*> packers() {
  std::vector<const KernelRow*> rows;
  for (const KernelRow* row : runnable_rows("w4a16")) {
    const auto same = [&](const KernelRow* other) {
      return other->pack == row->pack && other->unpack == row->unpack;
    };
    if (std::none_of(rows.begin(), rows.end(), same)) rows.push_back(row);
  }
  return rows;
}

class EveryPacker : public ::testing::TestWithParam<const KernelRow*> {};

TEST_P(EveryPacker, UnpackIsTheInverseOfPack) {
  const KernelRow& row = *GetParam();
  ThreadPool pool(2);
  Rng rng(2);
  for (int i = 0; i < 150; ++i) {
    const Weight w = random_weight(random_case(rng).weight, rng);
    const Packed p = pack(row, w, pool.parallel());
    ASSERT_TRUE(p.status.ok()) << p.status.message();
    std::vector<uint8_t> codes(w.codes.size(), 0xee), zeros(w.zeros.size(), 0xee);
    std::vector<char> scales(w.scales.bytes.size(), char(0xee));
    const Status status = row.unpack(p.view, codes.data(), scales.data(),
                                     w.shape.has_zeros ? zeros.data() : nullptr, pool.parallel());
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_EQ(codes, w.codes);
    ASSERT_EQ(scales, w.scales.bytes);
    ASSERT_EQ(zeros, w.zeros);
  }
}

TEST_P(EveryPacker, PackNamesTheFirstBadCodeAndZero) {
  const KernelRow& row = *GetParam();
  Rng rng(3);
  Weight w = random_weight({.n = 20, .k = 70, .group_size = 30, .bits = 3, .has_zeros = true}, rng);
  w.codes[17 * 70 + 33] = 8;
  w.codes[19 * 70 + 1] = 255;
  Packed p = pack(row, w);
  EXPECT_EQ(p.status.code(), StatusCode::invalid_argument);
  EXPECT_EQ(p.status.message(),
            "codes: expected values below 8 (bits = 3), got 8 at n = 17, k = 33");
  w.zeros[4 * 3 + 2] = 9;
  p = pack(row, w);
  EXPECT_EQ(p.status.message(),
            "zeros: expected values below 8 (bits = 3), got 9 at n = 4, group = 2");
}

TEST_P(EveryPacker, PackNamesMissingArguments) {
  const KernelRow& row = *GetParam();
  const IntGroup shape{.n = 1, .k = 2, .group_size = 2, .bits = 4, .has_zeros = true};
  const uint8_t codes[2] = {}, zeros[1] = {};
  const float scales[1] = {};
  char q[256], s[64];
  uint8_t z[16];
  const auto message = [&](const Status& status) {
    EXPECT_EQ(status.code(), StatusCode::invalid_argument);
    return status.message().substr(0, status.message().find(':'));
  };
  EXPECT_EQ(message(row.pack(shape, nullptr, scales, zeros, q, s, z, {})), "codes");
  EXPECT_EQ(message(row.pack(shape, codes, nullptr, zeros, q, s, z, {})), "scales");
  EXPECT_EQ(message(row.pack(shape, codes, scales, nullptr, q, s, z, {})), "zeros");
  EXPECT_EQ(message(row.pack(shape, codes, scales, zeros, nullptr, s, z, {})), "packed_qweight");
  EXPECT_EQ(message(row.pack(shape, codes, scales, zeros, q, nullptr, z, {})), "packed_scales");
  EXPECT_EQ(message(row.pack(shape, codes, scales, zeros, q, s, nullptr, {})), "packed_zeros");
  IntGroup symmetric = shape;
  symmetric.has_zeros = false;
  EXPECT_EQ(message(row.pack(symmetric, codes, scales, zeros, q, s, nullptr, {})), "zeros");
  PackedIntGroup packed{shape, row.layout + 1000, q, s, z};
  EXPECT_EQ(message(row.unpack(packed, z, s, z, {})), "layout");
}

INSTANTIATE_TEST_SUITE_P(W4A16, EveryPacker, ::testing::ValuesIn(packers()),
                         [](const auto& row) { return std::string(row.param->name); });

}  // namespace
}  // namespace qcore
