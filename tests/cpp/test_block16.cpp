// Layout block16 is a permutation of bytes: every byte arrives, where the header says, and comes
// back.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/layouts/block16.h"
#include "thread_pool.h"

namespace qcore {
namespace {

class Block16 : public ::testing::TestWithParam<BlockFormat> {};

TEST_P(Block16, EveryByteOfABlockIsInOneField) {
  const BlockFormat& format = GetParam();
  const block16::Fields fields = block16::fields_of(format);
  std::vector<int> seen(static_cast<size_t>(format.bytes));
  for (int i = 0; i < fields.dwords; ++i) {
    for (int b = 0; b < 4; ++b) ++seen.at(fields.offset[static_cast<size_t>(i)] + size_t(b));
  }
  for (int b = 0; b < fields.rest; ++b) ++seen.at(static_cast<size_t>(fields.rest_offset + b));
  EXPECT_EQ(seen, std::vector<int>(static_cast<size_t>(format.bytes), 1));
}

TEST_P(Block16, PacksAndUnpacksForAnyNumberOfRowsAndThreads) {
  const BlockFormat& format = GetParam();
  const block16::Fields fields = block16::fields_of(format);
  std::mt19937 random(7);
  for (const int64_t n : {0, 1, 15, 16, 17, 50}) {
    for (const int64_t count : {1, 3}) {
      const int64_t k = count * format.elements, row_bytes = count * format.bytes;
      std::vector<uint8_t> blocks(static_cast<size_t>(n * row_bytes));
      for (uint8_t& b : blocks) b = static_cast<uint8_t>(random());
      const BlockShape shape{&format, n, k};
      const block16::Geometry g(shape);
      ASSERT_EQ(g.bytes(), ceil_div(n, 16) * 16 * row_bytes);
      std::vector<uint8_t> packed(static_cast<size_t>(g.bytes()), 0xAA);
      testing::ThreadPool pool(3);
      ASSERT_TRUE(pack(block16::layout, shape, blocks.data(), packed.data(), pool.parallel()).ok());
      for (int64_t row = 0; row < g.panels * 16; ++row) {
        for (int64_t b = 0; b < count; ++b) {
          for (int i = 0; i < fields.dwords; ++i) {
            uint8_t expected[4] = {};
            const size_t from =
                static_cast<size_t>(row * row_bytes + b * format.bytes) + fields.offset[size_t(i)];
            if (row < n) std::memcpy(expected, &blocks[from], 4);
            const int64_t at = g.dwords_at(row / 16, b) + i * 64 + row % 16 * 4;
            ASSERT_EQ(std::memcmp(&packed[static_cast<size_t>(at)], expected, 4), 0);
          }
          for (int i = 0; i < fields.rest; ++i) {
            const int64_t from = row * row_bytes + b * format.bytes + fields.rest_offset + i;
            const int64_t at = g.rest_at(row / 16, b) + row % 16 * fields.rest + i;
            ASSERT_EQ(packed[static_cast<size_t>(at)],
                      row < n ? blocks[static_cast<size_t>(from)] : 0);
          }
        }
      }
      std::vector<uint8_t> back(blocks.size(), 0x55);
      ASSERT_TRUE(
          unpack({shape, block16::layout.number, packed.data()}, back.data(), pool.parallel())
              .ok());
      EXPECT_EQ(back, blocks);
    }
  }
}

// Packing asks for huge pages under it, which must not touch what lies around or already inside.
TEST(Block16Large, AWeightOfManyPagesComesBackFromAnyAddress) {
  const BlockFormat& format = *find_block_format("Q8_0");
  const BlockShape shape{&format, 1037, 5120};
  const size_t bytes = static_cast<size_t>(shape.n * shape.k / 32 * format.bytes);
  std::vector<uint8_t> blocks(bytes), back(bytes);
  std::mt19937 random(8);
  for (uint8_t& b : blocks) b = static_cast<uint8_t>(random());
  const size_t size = static_cast<size_t>(block16::packed_bytes(shape));
  ASSERT_GT(size, size_t{4} << 20);
  constexpr size_t kGuard = 8192 + 3;
  std::vector<uint8_t> memory(size + 2 * kGuard, 0xAA);
  testing::ThreadPool pool(2);
  uint8_t* packed = memory.data() + kGuard;
  ASSERT_TRUE(pack(block16::layout, shape, blocks.data(), packed, pool.parallel()).ok());
  EXPECT_EQ(std::count(memory.begin(), memory.begin() + kGuard, 0xAA), kGuard);
  EXPECT_EQ(std::count(memory.end() - kGuard, memory.end(), 0xAA), kGuard);
  ASSERT_TRUE(unpack({shape, block16::layout.number, packed}, back.data(), pool.parallel()).ok());
  EXPECT_EQ(back, blocks);
}

INSTANTIATE_TEST_SUITE_P(Formats, Block16,
                         ::testing::ValuesIn(block_formats().begin(), block_formats().end()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace qcore
