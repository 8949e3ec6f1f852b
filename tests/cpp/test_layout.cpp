#include <gtest/gtest.h>

#include "cases.h"
#include "formats/code_order.h"
#include "thread_pool.h"

namespace qcore {
namespace {

using namespace testing;

class EveryLayout : public ::testing::TestWithParam<const ScaledLayout*> {
 protected:
  const ScaledLayout& layout() const { return *GetParam(); }
};

TEST_P(EveryLayout, UnpackIsTheInverseOfPack) {
  ThreadPool pool(2);
  Rng rng(2);
  for (int i = 0; i < 150; ++i) {
    const Weight w = random_weight(random_case(rng).weight, rng);
    const Packed p = pack(layout(), w, pool.parallel());
    ASSERT_TRUE(p.status.ok()) << p.status.message();
    std::vector<uint8_t> codes(w.codes.size(), 0xee), zeros(w.zeros.size(), 0xee);
    std::vector<char> scales(w.scales.bytes.size(), char(0xee));
    const Status status = unpack(p.view, codes.data(), scales.data(),
                                 w.shape.has_zeros ? zeros.data() : nullptr, pool.parallel());
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_EQ(codes, w.codes);
    ASSERT_EQ(scales, w.scales.bytes);
    ASSERT_EQ(zeros, w.zeros);
  }
}

TEST_P(EveryLayout, WritesEveryByteWhateverWasThere) {
  Rng rng(4);
  for (int i = 0; i < 20; ++i) {
    const Weight w = random_weight(random_case(rng).weight, rng);
    const Packed p = pack(layout(), w);
    std::vector<char> qweight(p.qweight.size(), 0x11), scales(p.scales.size(), 0x11);
    std::vector<uint8_t> zeros(p.zeros.size(), 0x11);
    const Status status =
        pack(layout(), w.view(),
             {qweight.data(), scales.data(), zeros.empty() ? nullptr : zeros.data()}, {});
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(qweight, p.qweight);
    EXPECT_EQ(scales, p.scales);
    EXPECT_EQ(zeros, p.zeros);
  }
}

// The codes of a weight as another checkpoint format stores them, written straight from its
// description.
std::vector<uint32_t> foreign(const Weight& w, CodeOrder order) {
  const ScaledWeight& s = w.shape;
  const int64_t stream = ceil_div(s.k * s.bits(), 32);
  std::vector<uint32_t> words(
      static_cast<size_t>(order == CodeOrder::awq ? s.k * (s.n / 8) : stream * s.n));
  for (int64_t n = 0; n < s.n; ++n) {
    for (int64_t k = 0; k < s.k; ++k) {
      const uint32_t code = w.codes[static_cast<size_t>(n * s.k + k)];
      if (order == CodeOrder::awq) {
        constexpr int kPlace[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // inverse of 0 2 4 6 1 3 5 7
        words[static_cast<size_t>(k * (s.n / 8) + n / 8)] |= code << (4 * kPlace[n % 8]);
        continue;
      }
      for (int b = 0; b < s.bits(); ++b) {
        const int64_t bit = k * s.bits() + b;
        const int64_t word = order == CodeOrder::gptq ? bit / 32 * s.n + n : n * stream + bit / 32;
        words[static_cast<size_t>(word)] |= (code >> b & 1u) << (bit % 32);
      }
    }
  }
  return words;
}

TEST_P(EveryLayout, PacksForeignOrdersDirectly) {
  Rng rng(5);
  for (int i = 0; i < 60; ++i) {
    Weight w = random_weight(random_case(rng).weight, rng);
    for (const CodeOrder order : {CodeOrder::gptq, CodeOrder::awq, CodeOrder::compressed_tensors}) {
      ScaledWeight shape = w.shape;
      if (order == CodeOrder::awq) {
        shape.elements = Elements::u4;
        shape.n = ceil_div(shape.n, 8) * 8;
      }
      const Weight source = random_weight(shape, rng);
      std::vector<int32_t> perm(static_cast<size_t>(shape.k));
      for (size_t j = 0; j < perm.size(); ++j) perm[j] = static_cast<int32_t>(j);
      std::shuffle(perm.begin(), perm.end(), rng);
      Weight permuted = source;
      for (int64_t n = 0; n < shape.n; ++n) {
        for (int64_t k = 0; k < shape.k; ++k) {
          permuted.codes[static_cast<size_t>(n * shape.k + k)] =
              source.codes[static_cast<size_t>(n * shape.k + perm[static_cast<size_t>(k)])];
        }
      }
      const std::vector<uint32_t> words = foreign(source, order);
      Packed p = pack(layout(), permuted);
      const std::vector<char> expected = p.qweight;
      ScaledView view = source.view();
      view.codes = {words.data(), order, perm.data()};
      const Status status =
          pack(layout(), view,
               {p.qweight.data(), p.scales.data(), p.zeros.empty() ? nullptr : p.zeros.data()}, {});
      ASSERT_TRUE(status.ok()) << status.message();
      ASSERT_EQ(p.qweight, expected) << static_cast<int>(order);
    }
  }
}

TEST_P(EveryLayout, PackNamesTheFirstBadCodeAndZero) {
  Rng rng(3);
  Weight w = random_weight(
      {.n = 20, .k = 70, .group_size = 30, .elements = Elements::u3, .has_zeros = true}, rng);
  w.codes[17 * 70 + 33] = 8;
  w.codes[19 * 70 + 1] = 255;
  Packed p = pack(layout(), w);
  EXPECT_EQ(p.status.code(), StatusCode::invalid_argument);
  EXPECT_EQ(p.status.message(),
            "codes: expected values below 8 (bits = 3), got 8 at n = 17, k = 33");
  w.zeros[4 * 3 + 2] = 9;
  p = pack(layout(), w);
  EXPECT_EQ(p.status.message(),
            "zeros: expected values below 8 (bits = 3), got 9 at n = 4, group = 2");
}

TEST_P(EveryLayout, NamesMissingAndWrongArguments) {
  const ScaledWeight shape{
      .n = 1, .k = 2, .group_size = 2, .elements = Elements::u4, .has_zeros = true};
  const uint8_t codes[2] = {}, zeros[1] = {};
  const float scales[1] = {};
  char q[4096], s[256];
  uint8_t z[64];
  const auto message = [&](const ScaledView& view, const PackedBuffers& to) {
    const Status status = pack(layout(), view, to, {});
    EXPECT_EQ(status.code(), StatusCode::invalid_argument);
    return status.message().substr(0, status.message().find(':'));
  };
  EXPECT_EQ(message({shape, {}, scales, zeros}, {q, s, z}), "codes");
  EXPECT_EQ(message({shape, {codes}, nullptr, zeros}, {q, s, z}), "scales");
  EXPECT_EQ(message({shape, {codes}, scales, nullptr}, {q, s, z}), "zeros");
  EXPECT_EQ(message({shape, {codes}, scales, zeros}, {nullptr, s, z}), "packed.qweight");
  EXPECT_EQ(message({shape, {codes}, scales, zeros}, {q, nullptr, z}), "packed.scales");
  EXPECT_EQ(message({shape, {codes}, scales, zeros}, {q, s, nullptr}), "packed.zeros");
  EXPECT_EQ(message({shape, {codes, CodeOrder::awq}, scales, zeros}, {q, s, z}), "n");
  const int32_t perm[2] = {0, 2};
  EXPECT_EQ(message({shape, {codes, CodeOrder::plain, perm}, scales, zeros}, {q, s, z}), "perm");
  ScaledWeight other = shape;
  other.has_zeros = false;
  EXPECT_EQ(message({other, {codes}, scales, zeros}, {q, s, nullptr}), "zeros");
  other.elements = Elements::u8;
  EXPECT_EQ(message({other, {codes, CodeOrder::awq}, scales, nullptr}, {q, s, nullptr}), "bits");
}

INSTANTIATE_TEST_SUITE_P(Layouts, EveryLayout, ::testing::ValuesIn(scaled_layouts()),
                         [](const auto& layout) { return std::string(layout.param->name); });

std::vector<uint8_t> random_bytes(int64_t count, Rng& rng) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(rng());
  return bytes;
}

class EveryBlockLayout
    : public ::testing::TestWithParam<std::tuple<const BlockLayout*, BlockFormat>> {
 protected:
  const BlockLayout& layout() const { return *std::get<0>(GetParam()); }
  const BlockFormat& format() const { return *find_block_format(std::get<1>(GetParam()).name); }

  BlockShape random_shape(Rng& rng) const {
    return {&format(), pick<int64_t>(rng, {1, 2, 15, 16, 17, 31, 32, 33, 64, uniform(rng, 1, 90)}),
            format().elements * uniform(rng, 1, 9)};
  }
};

TEST_P(EveryBlockLayout, UnpackIsTheInverseOfPackWhateverWasThere) {
  ThreadPool two(2), three(3);
  Rng rng(71);
  for (int i = 0; i < 20; ++i) {
    const BlockShape shape = random_shape(rng);
    const std::vector<uint8_t> blocks = random_bytes(shape.bytes(), rng);
    const int64_t size = layout().packed_bytes(shape);
    std::vector<uint8_t> packed(static_cast<size_t>(size), 0x55), again(packed.size(), 0xaa);
    ASSERT_TRUE(pack(layout(), shape, blocks.data(), packed.data(), {}).ok());
    ASSERT_TRUE(pack(layout(), shape, blocks.data(), again.data(), three.parallel()).ok());
    EXPECT_EQ(packed, again);
    std::vector<uint8_t> back(blocks.size(), 0xee);
    const PackedBlocks view{shape, layout().number, packed.data()};
    ASSERT_TRUE(unpack(view, back.data(), two.parallel()).ok());
    EXPECT_EQ(back, blocks) << shape.n << " x " << shape.k;
  }
}

// Blocks come from files and packed weights from tensors, at any address.
TEST_P(EveryBlockLayout, TakesAnyAlignmentAndStaysInside) {
  Rng rng(72);
  const BlockShape shape{&format(), 19, format().elements * 3};
  const auto size = static_cast<size_t>(layout().packed_bytes(shape));
  std::vector<uint8_t> blocks = random_bytes(shape.bytes() + 1, rng);
  std::vector<uint8_t> packed(size + 2, 0x5a), back(blocks.size() + 1, 0x5a);
  ASSERT_TRUE(pack(layout(), shape, blocks.data() + 1, packed.data() + 1, {}).ok());
  ASSERT_TRUE(unpack({shape, layout().number, packed.data() + 1}, back.data() + 1, {}).ok());
  EXPECT_TRUE(std::equal(blocks.begin() + 1, blocks.end(), back.begin() + 1));
  EXPECT_EQ(packed.front(), 0x5a);
  EXPECT_EQ(packed.back(), 0x5a);
  EXPECT_EQ(back.front(), 0x5a);
  EXPECT_EQ(back.back(), 0x5a);
}

TEST_P(EveryBlockLayout, NamesMissingAndWrongArguments) {
  const BlockShape shape{&format(), 1, format().elements};
  uint8_t byte = 0;
  const auto name_of = [](const Status& status) {
    EXPECT_EQ(status.code(), StatusCode::invalid_argument);
    return status.message().substr(0, status.message().find(':'));
  };
  EXPECT_EQ(name_of(pack(layout(), shape, nullptr, &byte, {})), "blocks");
  EXPECT_EQ(name_of(pack(layout(), shape, &byte, nullptr, {})), "packed");
  EXPECT_EQ(name_of(unpack({shape, layout().number, nullptr}, &byte, {})), "packed.data");
  EXPECT_EQ(name_of(unpack({shape, layout().number, &byte}, nullptr, {})), "blocks");
  EXPECT_EQ(name_of(unpack({shape, 1, &byte}, &byte, {})), "layout");
  EXPECT_EQ(name_of(pack(layout(), {&format(), -1, shape.k}, &byte, &byte, {})), "n");
  EXPECT_EQ(name_of(pack(layout(), {&format(), 1, shape.k + 16}, &byte, &byte, {})), "k");
  EXPECT_EQ(name_of(pack(layout(), {&format(), 1, 0}, &byte, &byte, {})), "k");
  EXPECT_EQ(name_of(pack(layout(), {nullptr, 1, shape.k}, &byte, &byte, {})), "format");
  EXPECT_TRUE(pack(layout(), {&format(), 0, shape.k}, nullptr, nullptr, {}).ok());
  if (!layout().cuda_pack) {
    const Status status = pack(layout(), shape, &byte, &byte, Executor(0, nullptr));
    EXPECT_EQ(status.code(), StatusCode::unsupported);
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, EveryBlockLayout,
                         ::testing::Combine(::testing::ValuesIn(block_layouts()),
                                            ::testing::ValuesIn(block_formats())),
                         [](const auto& with) {
                           return std::string(std::get<0>(with.param)->name) + "_" +
                                  std::get<1>(with.param).name;
                         });

TEST(Layouts, AreFoundByTheirNumber) {
  for (const Layout* layout : layouts()) EXPECT_EQ(find_layout(layout->number), layout);
  for (const ScaledLayout* layout : scaled_layouts()) {
    EXPECT_EQ(find_scaled_layout(layout->number), layout);
    EXPECT_EQ(find_layout(layout->number), layout);
  }
  for (const BlockLayout* layout : block_layouts()) {
    EXPECT_EQ(find_block_layout(layout->number), layout);
    EXPECT_EQ(find_layout(layout->number), layout);
    EXPECT_EQ(find_scaled_layout(layout->number), nullptr);
  }
  EXPECT_EQ(layouts().size(), scaled_layouts().size() + block_layouts().size());
  EXPECT_EQ(find_layout(999), nullptr);
  uint8_t byte = 0;
  const PackedScaled packed{{.n = 1, .k = 1, .group_size = 1}, 999, &byte, &byte, nullptr};
  EXPECT_EQ(unpack(packed, &byte, &byte, nullptr, {}).message(), "layout: there is no layout 999");
}

TEST(Layouts, NoGpuNoPackingThere) {
  const ScaledLayout* layout = find_scaled_layout(1);
  if (layout->cuda_pack) GTEST_SKIP();
  const uint8_t codes[2] = {};
  const float scales[1] = {};
  char q[256], s[64];
  const Status status = pack(*layout, {{.n = 1, .k = 2, .group_size = 2}, {codes}, scales}, {q, s},
                             Executor(0, nullptr));
  EXPECT_EQ(status.code(), StatusCode::unsupported);
}

}  // namespace
}  // namespace qcore
