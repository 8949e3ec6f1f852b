#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "cpu/float16.h"
#include "qcore/blocks.h"
#include "thread_pool.h"

namespace qcore {
namespace {

constexpr uint8_t kHalfOfTwo[] = {0x00, 0x40};           // 2, little-endian
constexpr uint8_t kHalfOfMinusQuarter[] = {0x00, 0xb4};  // -0.25

std::vector<float> decode(const char* name, const std::vector<uint8_t>& blocks) {
  const BlockFormat& format = *find_block_format(name);
  const int64_t count = static_cast<int64_t>(blocks.size()) / format.bytes;
  EXPECT_EQ(static_cast<int64_t>(blocks.size()), count * format.bytes);
  std::vector<float> out(static_cast<size_t>(count * format.elements));
  EXPECT_TRUE(decode_blocks(format, blocks.data(), count, DType::f32, out.data(), {}).ok());
  return out;
}

TEST(Blocks, TableIsConsistent) {
  std::set<std::string> names;
  std::set<int> types;
  for (const BlockFormat& format : block_formats()) {
    SCOPED_TRACE(format.name);
    EXPECT_EQ(find_block_format(format.name), &format);
    EXPECT_TRUE(names.insert(format.name).second);
    EXPECT_TRUE(types.insert(format.ggml_type).second);
    EXPECT_TRUE(format.elements == 32 || format.elements == 256);
    EXPECT_LE(format.elements, kMaxBlockElements);
    const double bits = 8.0 * format.bytes / format.elements;
    EXPECT_GT(bits, 1.5);
    EXPECT_LE(bits, 8.5);
  }
  EXPECT_EQ(names.size(), 15u);
  EXPECT_EQ(find_block_format("Q8_K"), nullptr);
  EXPECT_EQ(find_block_format("q4_0"), nullptr);
}

TEST(Blocks, Q4_0ByHand) {
  std::vector<uint8_t> block(18);
  block[0] = kHalfOfTwo[0];
  block[1] = kHalfOfTwo[1];
  for (size_t i = 0; i < 16; ++i) block[2 + i] = static_cast<uint8_t>(i | (15 - i) << 4);
  const std::vector<float> out = decode("Q4_0", block);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(out[static_cast<size_t>(i)], 2.0f * static_cast<float>(i - 8));
    EXPECT_EQ(out[static_cast<size_t>(i + 16)], 2.0f * static_cast<float>(7 - i));
  }
}

TEST(Blocks, Q4_KByHand) {
  // Six bits each: the upper four groups take their top bits from bytes 0 to 7.
  std::vector<uint8_t> block = {kHalfOfTwo[0], kHalfOfTwo[1], kHalfOfMinusQuarter[0],
                                kHalfOfMinusQuarter[1]};
  const uint8_t pairs[] = {0x01, 0x42, 0x83, 0xc4, 0x05, 0x46, 0x87, 0xc8, 0x95, 0xa6, 0xb7, 0xc8};
  block.insert(block.end(), std::begin(pairs), std::end(pairs));
  const float scales[] = {1, 2, 3, 4, 5, 22, 39, 56};
  const float minima[] = {5, 6, 7, 8, 9, 26, 43, 60};
  for (int i = 0; i < 128; ++i) block.push_back(static_cast<uint8_t>(i % 16 | (i / 32 + 3) << 4));
  const std::vector<float> out = decode("Q4_K", block);
  for (size_t i = 0; i < 256; ++i) {
    const size_t g = i / 32;
    const float q = g % 2 == 0 ? static_cast<float>(i % 16) : static_cast<float>(g / 2 + 3);
    EXPECT_EQ(out[i], 2.0f * scales[g] * q + 0.25f * minima[g]) << i;
  }
}

TEST(Blocks, SmallestAndLargestScaleOfMXFP4) {
  std::vector<uint8_t> blocks(34, 0x72);  // codes 2 (1.0) and 7 (6.0)
  blocks[0] = 0;
  blocks[17] = 254;
  const std::vector<float> out = decode("MXFP4", blocks);
  EXPECT_EQ(out[0], 0x1p-127f);
  EXPECT_EQ(out[16], 6 * 0x1p-127f);
  EXPECT_EQ(out[32], 0x1p127f);
  EXPECT_TRUE(std::isinf(out[48]));
}

// Blocks of every byte, at an odd address.
std::vector<uint8_t> some_blocks(const BlockFormat& format, int64_t count) {
  std::vector<uint8_t> blocks(static_cast<size_t>(count * format.bytes) + 1);
  uint32_t state = 1;
  for (uint8_t& byte : blocks) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<uint8_t>(state >> 24);
  }
  return blocks;
}

TEST(Blocks, NeitherThreadsNorTheDtypeChangeAValue) {
  testing::ThreadPool pool(3);
  for (const BlockFormat& format : block_formats()) {
    SCOPED_TRACE(format.name);
    const int64_t count = 70000 / format.elements;
    const size_t elements = static_cast<size_t>(count * format.elements);
    const std::vector<uint8_t> bytes = some_blocks(format, count);
    std::vector<float> one(elements), many(elements);
    std::vector<uint16_t> half(elements), brain(elements);
    const void* blocks = bytes.data() + 1;
    EXPECT_TRUE(decode_blocks(format, blocks, count, DType::f32, one.data(), {}).ok());
    const Parallel parallel = pool.parallel();
    EXPECT_TRUE(decode_blocks(format, blocks, count, DType::f32, many.data(), parallel).ok());
    EXPECT_TRUE(decode_blocks(format, blocks, count, DType::f16, half.data(), parallel).ok());
    EXPECT_TRUE(decode_blocks(format, blocks, count, DType::bf16, brain.data(), parallel).ok());
    for (size_t i = 0; i < elements; ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(one[i]), std::bit_cast<uint32_t>(many[i])) << i;
      ASSERT_EQ(half[i], f16_from_f32(one[i])) << i;
      ASSERT_EQ(brain[i], bf16_from_f32(one[i])) << i;
    }
  }
}

TEST(Blocks, WrongArgumentsAreNamed) {
  const BlockFormat& format = *find_block_format("Q8_0");
  const std::array<uint8_t, 34> block{};
  std::array<float, 32> out{};
  const auto message = [&](const void* blocks, int64_t count, DType dtype, void* to) {
    const Status status = decode_blocks(format, blocks, count, dtype, to, {});
    EXPECT_EQ(status.code(), StatusCode::invalid_argument);
    return status.message();
  };
  EXPECT_EQ(message(nullptr, 1, DType::f32, out.data()), "blocks: expected a pointer, got null");
  EXPECT_EQ(message(block.data(), 1, DType::f32, nullptr), "out: expected a pointer, got null");
  EXPECT_EQ(message(block.data(), 1, DType{9}, out.data()),
            "dtype: expected f32, f16 or bf16, got 9");
  EXPECT_EQ(message(block.data(), -1, DType::f32, out.data()).find("count: expected 0 .. "), 0u);
  const int64_t largest = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(message(block.data(), largest, DType::f32, out.data()).find("count: expected"), 0u);
  EXPECT_TRUE(decode_blocks(format, nullptr, 0, DType::f32, nullptr, {}).ok());
}

}  // namespace
}  // namespace qcore
