#include <gtest/gtest.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "formats/blocks/blocks.h"
#include "numerics/float16.h"
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
    EXPECT_EQ(format.elements % format.group, 0);
    EXPECT_GE(format.codes, 3);
    EXPECT_LE(format.codes, 256);
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

struct Split {
  std::vector<uint8_t> codes;
  std::vector<float> scales, mins;
};

Split split(const BlockFormat& format, const void* blocks, int64_t count,
            const Parallel& parallel = {}) {
  const size_t elements = static_cast<size_t>(count * format.elements);
  const size_t groups = elements / static_cast<size_t>(format.group);
  Split s{std::vector<uint8_t>(elements), std::vector<float>(groups), std::vector<float>(groups)};
  EXPECT_TRUE(
      split_blocks(format, blocks, count, s.codes.data(), s.scales.data(), s.mins.data(), parallel)
          .ok());
  return s;
}

bool same_bits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

TEST(Blocks, SplitGivesTheBitsOfDecode) {
  testing::ThreadPool pool(3);
  for (const BlockFormat& format : block_formats()) {
    SCOPED_TRACE(format.name);
    const int64_t count = 70000 / format.elements;
    const std::vector<uint8_t> bytes = some_blocks(format, count);
    const void* blocks = bytes.data() + 1;
    std::vector<float> values(static_cast<size_t>(count * format.elements));
    ASSERT_TRUE(decode_blocks(format, blocks, count, DType::f32, values.data(), {}).ok());
    const Split s = split(format, blocks, count, pool.parallel());
    for (size_t i = 0; i < values.size(); ++i) {
      const size_t g = i / static_cast<size_t>(format.group);
      ASSERT_LT(s.codes[i], format.codes);
      float value = s.scales[g] * static_cast<float>(format.values[s.codes[i]]);
      if (format.has_min) value -= s.mins[g];
      ASSERT_TRUE(same_bits(value, values[i])) << i << ": " << value << " " << values[i];
      if (!format.has_min) {
        ASSERT_EQ(s.mins[g], 0.0f);
      }
    }
  }
}

TEST(Blocks, JoinOfTheSameCodesChangesNoBit) {
  testing::ThreadPool pool(3);
  for (const BlockFormat& format : block_formats()) {
    SCOPED_TRACE(format.name);
    const int64_t count = 70000 / format.elements;
    const std::vector<uint8_t> bytes = some_blocks(format, count);
    std::vector<uint8_t> joined = bytes;
    const Split s = split(format, bytes.data() + 1, count);
    ASSERT_TRUE(
        join_blocks(format, joined.data() + 1, count, s.codes.data(), pool.parallel()).ok());
    EXPECT_EQ(joined, bytes);
  }
}

TEST(Blocks, JoinReplacesTheCodesAndKeepsTheScales) {
  for (const BlockFormat& format : block_formats()) {
    SCOPED_TRACE(format.name);
    const int64_t count = 70000 / format.elements;
    std::vector<uint8_t> blocks = some_blocks(format, count);
    const Split before = split(format, blocks.data(), count);
    std::vector<uint8_t> codes = before.codes;
    for (size_t i = 0; i < codes.size(); ++i) {
      codes[i] =
          static_cast<uint8_t>((codes[i] + i * 7 + i / 50) % static_cast<size_t>(format.codes));
    }
    ASSERT_TRUE(join_blocks(format, blocks.data(), count, codes.data(), {}).ok());
    const Split after = split(format, blocks.data(), count);
    EXPECT_EQ(after.codes, codes);
    for (size_t g = 0; g < before.scales.size(); ++g) {
      ASSERT_TRUE(same_bits(after.scales[g], before.scales[g]));
      ASSERT_TRUE(same_bits(after.mins[g], before.mins[g]));
    }
  }
}

// One element at a time, as code outside of the core reads a block.
template <class Block>
void check_view(const BlockFormat& format) {
  SCOPED_TRACE(format.name);
  constexpr size_t kElements = Block::kElements, kGroups = kElements / Block::kGroup;
  const int64_t count = 300;
  const std::vector<uint8_t> bytes = some_blocks(format, count);
  const Split all = split(format, bytes.data(), count);
  uint32_t state = 1;
  for (size_t b = 0; b < static_cast<size_t>(count); ++b) {
    Block block, other;
    std::memcpy(&block, bytes.data() + b * sizeof(Block), sizeof(Block));
    std::memset(&other, 0xa5, sizeof(Block));
    for (size_t n = 0; n < kElements; ++n) {
      const int i = static_cast<int>(n * 37 % kElements);  // in any order
      ASSERT_EQ(block.code(i), all.codes[b * kElements + static_cast<size_t>(i)]);
      ASSERT_EQ(Block::value(block.code(i)), format.values[block.code(i)]);
      other.set_code(i, block.code(i));
    }
    for (int i = 0; i < Block::kElements; ++i) ASSERT_EQ(other.code(i), block.code(i)) << i;
    for (size_t n = 0; n < kGroups; ++n) {
      const int g = static_cast<int>(n * 5 % kGroups);
      const size_t at = b * kGroups + static_cast<size_t>(g);
      ASSERT_TRUE(same_bits(block.d() * static_cast<float>(block.group_scale(g)), all.scales[at]));
      if constexpr (requires { other.set_group(g, 0, 0); }) {
        other.set_group(g, block.group_scale(g), block.group_min(g));
      } else if constexpr (requires { other.set_group(g, 0); }) {
        other.set_group(g, block.group_scale(g));
      }
    }
    for (int g = 0; g < static_cast<int>(kGroups); ++g) {
      ASSERT_EQ(other.group_scale(g), block.group_scale(g));
      ASSERT_EQ(other.group_min(g), block.group_min(g));
    }
    // A finite half.
    state = state * 1664525u + 1013904223u;
    const float half = f32_from_f16(static_cast<uint16_t>(state >> 16 & 0xbfffu));
    if constexpr (requires { block.scale; }) {
      other.set_d(half);
      ASSERT_TRUE(same_bits(other.d(), half));
    }
    if constexpr (Block::kHasMin) {
      other.set_dmin(half);
      ASSERT_TRUE(same_bits(other.dmin(), half));
    }
    for (int i = 0; i < Block::kElements; ++i) ASSERT_EQ(other.code(i), block.code(i)) << i;
  }
}

TEST(Blocks, EveryElementHasTheSameViewAlone) {
#define QCORE_BLOCK(name, ggml_type, elements, bytes, summary) \
  check_view<blocks::name>(*find_block_format(#name));
#include "formats/blocks/blocks.def"
#undef QCORE_BLOCK
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

TEST(Blocks, WrongArgumentsOfSplitAndJoinAreNamed) {
  const BlockFormat& format = *find_block_format("TQ1_0");
  std::array<uint8_t, 54> block{};
  std::array<uint8_t, 256> codes{};
  float scale, min;
  const auto of_split = [&](const void* from, int64_t count, uint8_t* c, float* s, float* m) {
    const Status status = split_blocks(format, from, count, c, s, m, {});
    EXPECT_EQ(status.code(), StatusCode::invalid_argument);
    return status.message();
  };
  const auto of_join = [&](void* to, int64_t count, const uint8_t* c) {
    const Status status = join_blocks(format, to, count, c, {});
    EXPECT_EQ(status.code(), StatusCode::invalid_argument);
    return status.message();
  };
  const std::string null = ": expected a pointer, got null";
  EXPECT_EQ(of_split(nullptr, 1, codes.data(), &scale, &min), "blocks" + null);
  EXPECT_EQ(of_split(block.data(), 1, nullptr, &scale, &min), "codes" + null);
  EXPECT_EQ(of_split(block.data(), 1, codes.data(), nullptr, &min), "scales" + null);
  EXPECT_EQ(of_split(block.data(), 1, codes.data(), &scale, nullptr), "mins" + null);
  EXPECT_EQ(of_split(block.data(), -1, codes.data(), &scale, &min).find("count: expected 0 "), 0u);
  EXPECT_EQ(of_join(nullptr, 1, codes.data()), "blocks" + null);
  EXPECT_EQ(of_join(block.data(), 1, nullptr), "codes" + null);
  EXPECT_EQ(of_join(block.data(), -1, codes.data()).find("count: expected 0 "), 0u);
  codes[200] = 3;
  EXPECT_EQ(of_join(block.data(), 1, codes.data()), "codes: expected 0 .. 2, got 3 at 200");
  EXPECT_TRUE(split_blocks(format, nullptr, 0, nullptr, nullptr, nullptr, {}).ok());
  EXPECT_TRUE(join_blocks(format, nullptr, 0, nullptr, {}).ok());
}

#if defined(__x86_64__)
// torch.set_flush_denormal holds for one thread; the scale of this block is subnormal, its elements
// are not.
TEST(DecodeBlocks, DoesNotDependOnTheFlushMode) {
  const BlockFormat& format = *find_block_format("MXFP4");
  std::vector<uint8_t> block(static_cast<size_t>(format.bytes), 0x77);
  block[0] = 0;
  std::vector<float> expected(32), flushed(32), scales(1), mins(1);
  std::vector<uint8_t> codes(32);
  ASSERT_TRUE(decode_blocks(format, block.data(), 1, DType::f32, expected.data(), {}).ok());
  EXPECT_EQ(expected[0], 12 * 0x1p-128f);
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);
  const Status decoded = decode_blocks(format, block.data(), 1, DType::f32, flushed.data(), {});
  const Status split =
      split_blocks(format, block.data(), 1, codes.data(), scales.data(), mins.data(), {});
  _mm_setcsr(before);
  ASSERT_TRUE(decoded.ok() && split.ok());
  EXPECT_EQ(flushed, expected);
  EXPECT_EQ(scales[0], 0x1p-128f);
}
#endif

}  // namespace
}  // namespace qcore
