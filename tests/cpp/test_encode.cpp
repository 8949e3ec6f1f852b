// The encoders of all block formats: the bits from every instruction set, and inputs at the edges.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "encode_cases.h"
#include "numerics/float16.h"
#include "qcore/isa.h"
#include "thread_pool.h"

namespace qcore {
namespace {

using namespace testing;

struct ForcedIsa {
  explicit ForcedIsa(Isa isa) { setenv("QCORE_FORCE_ISA", name(isa), 1); }
  ~ForcedIsa() { unsetenv("QCORE_FORCE_ISA"); }
};

// Rows that try the encoders: 256 elements each.
std::map<std::string, Floats> edges() {
  constexpr float kLargest = std::numeric_limits<float>::max();
  std::map<std::string, Floats> rows;
  const auto constant = [](float value) { return Floats(256, value); };
  rows["zero"] = constant(0);
  rows["minus zero"] = constant(-0.0f);
  rows["one"] = constant(1);
  rows["minus one"] = constant(-1);
  rows["largest"] = constant(kLargest);
  rows["minus largest"] = constant(-kLargest);
  rows["least"] = constant(1e-45f);
  for (const auto& [name, scale] : std::map<std::string, float>{{"beyond halves", 1e30f},
                                                                {"near the largest half", 6e4f},
                                                                {"subnormal halves", 1e-6f},
                                                                {"below halves", 1e-9f},
                                                                {"near the least normal", 1e-37f},
                                                                {"subnormal", 1e-41f}}) {
    rows[name] = gaussian(256, scale);
  }
  rows["one outlier"] = gaussian(256);
  rows["one outlier"][100] = 100;
  rows["one element"] = constant(0);
  rows["one element"][37] = -0.3f;
  rows["all magnitudes"] = gaussian(256);
  for (int i = 0; i < 256; ++i) {
    rows["all magnitudes"][static_cast<size_t>(i)] *= std::ldexp(1.0f, i - 128);
  }
  rows["positive"] = gaussian(256);
  for (float& value : rows["positive"]) value = std::abs(value) + 0.1f;
  rows["negative"] = rows["positive"];
  for (float& value : rows["negative"]) value = -value;
  rows["groups far apart"] = gaussian(256);
  for (size_t i = 0; i < 256; ++i) {
    rows["groups far apart"][i] *= std::ldexp(1.0f, -7 * static_cast<int>(i / 16));
  }
  return rows;
}
std::map<std::string, Floats> edge_importances() {
  std::map<std::string, Floats> all{{"none", {}}};
  all["zero"] = Floats(256, 0);
  all["some zero"] = lognormal(256);
  for (size_t i = 0; i < 256; i += 3) all["some zero"][i] = 0;
  all["one column"] = Floats(256, 0);
  all["one column"][37] = 5;
  all["groups of zero"] = Floats(256, 0);
  std::fill_n(all["groups of zero"].begin(), 32, 1.0f);
  all["huge and tiny"] = Floats(256, 1e-38f);
  for (size_t i = 0; i < 256; i += 2) all["huge and tiny"][i] = 3e38f;
  all["subnormal"] = Floats(256, 1e-44f);
  return all;
}

TEST(Encode, EveryIsaGivesTheSameBits) {
  const size_t k = 256 * 5;
  Floats w = gaussian(256 * 30);
  for (const auto& [_, row] : edges()) w.insert(w.end(), row.begin(), row.end());
  w.resize((w.size() + k - 1) / k * k);
  Floats importance = lognormal(k - 256);
  const Floats zeros = edge_importances()["some zero"];
  importance.insert(importance.end(), zeros.begin(), zeros.end());
  for (const BlockFormat& format : block_formats()) {
    SCOPED_TRACE(format.name);
    const float* const columns[] = {nullptr, importance.data()};
    for (const float* p : columns) {
      std::vector<uint8_t> expected;
      for (const Isa isa : kIsas) {
        if (!has_isa(isa)) continue;
        const ForcedIsa forced(isa);
        const std::vector<uint8_t> blocks = encode(format, w, static_cast<int64_t>(k), p);
        if (isa == Isa::scalar) expected = blocks;
        EXPECT_EQ(blocks, expected) << name(isa);
      }
    }
  }
}

TEST(Encode, NeitherThreadsNorOtherRowsChangeARow) {
  testing::ThreadPool pool(3);
  const int64_t k = 768, rows = 37;
  const Floats w = laplace(static_cast<size_t>(rows * k)), importance = lognormal(k);
  for (const BlockFormat& format : block_formats()) {
    SCOPED_TRACE(format.name);
    const std::vector<uint8_t> one = encode(format, w, k, importance.data());
    EXPECT_EQ(encode(format, w, k, importance.data(), pool.parallel()), one);
    const auto row_bytes = k / format.elements * format.bytes;
    for (const int64_t row : {int64_t{0}, int64_t{5}, int64_t{36}}) {
      const Floats alone(w.begin() + row * k, w.begin() + (row + 1) * k);
      EXPECT_EQ(
          encode(format, alone, k, importance.data()),
          std::vector<uint8_t>(one.begin() + row * row_bytes, one.begin() + (row + 1) * row_bytes));
    }
  }
}

TEST(Encode, EqualImportanceIsNone) {
  const Floats w = gaussian(1024), equal(512, 0.3f), zero(512);
  for (const BlockFormat& format : block_formats()) {
    const std::vector<uint8_t> none = encode(format, w, 512);
    EXPECT_EQ(encode(format, w, 512, equal.data()), none) << format.name;
    EXPECT_EQ(encode(format, w, 512, zero.data()), none) << format.name;
  }
}

TEST(Encode, NarrowWeightsAreThoseOfFloat32) {
  const Floats w = gaussian(512);
  for (const DType dtype : {DType::f16, DType::bf16}) {
    std::vector<uint16_t> narrow(w.size());
    Floats wide(w.size());
    for (size_t i = 0; i < w.size(); ++i) {
      store_scalar(dtype, narrow.data(), static_cast<int64_t>(i), w[i]);
      wide[i] = load_scalar(dtype, narrow.data(), static_cast<int64_t>(i));
    }
    for (const BlockFormat& format : block_formats()) {
      const std::vector<uint8_t> expected = encode(format, wide, 512);
      std::vector<uint8_t> blocks(expected.size());
      ASSERT_TRUE(
          encode_blocks(format, dtype, narrow.data(), 1, 512, nullptr, blocks.data(), {}).ok());
      EXPECT_EQ(blocks, expected) << format.name;
    }
  }
}

TEST(Encode, EdgesAreFiniteAndNoWorseThanZero) {
  for (const BlockFormat& format : block_formats()) {
    for (const auto& [row_name, w] : edges()) {
      for (const auto& [importance_name, p] : edge_importances()) {
        SCOPED_TRACE(std::string(format.name) + ", " + row_name + ", importance " +
                     importance_name);
        const Floats q = decode(format, encode(format, w, 256, p.empty() ? nullptr : p.data()));
        for (const float value : q) ASSERT_TRUE(std::isfinite(value));
        // What is less than a millionth of the largest importance counts as that.
        Floats weight = p.empty() ? Floats{1} : p;
        const float most = *std::max_element(weight.begin(), weight.end());
        for (float& value : weight) value = most == 0 ? 1 : std::max(value, most * 0x1p-20f);
        const double zero = error_of(w, Floats(256), weight);
        EXPECT_LE(error_of(w, q, weight), zero * (1 + 1e-6));
      }
    }
  }
}

TEST(Encode, ZeroIsZeroAndOneIsNearlyOne) {
  for (const BlockFormat& format : block_formats()) {
    SCOPED_TRACE(format.name);
    for (const float zero : {0.0f, -0.0f}) {
      for (const float value : decode(format, encode(format, Floats(256, zero), 256))) {
        ASSERT_EQ(value, 0.0f);
      }
    }
    // Not much smaller: d would be a subnormal half of few bits.
    for (const float one : {1.0f, -1.0f, 0.2f}) {
      // A power of two has its own grid.
      const float bound = std::string(format.name) == "MXFP4" ? 0.2f : 2e-3f;
      for (const float value : decode(format, encode(format, Floats(256, one), 256))) {
        ASSERT_NEAR(value, one, bound * std::abs(one));
      }
    }
  }
}

TEST(Encode, WrongArgumentsAreNamed) {
  const BlockFormat& format = *find_block_format("Q4_K");
  Floats w(1024, 1), importance(512, 1);
  std::vector<uint8_t> blocks(4 * 144);
  const auto message = [&](const void* weights, int64_t rows, int64_t k, const float* p, void* to,
                           DType dtype = DType::f32) {
    const Status status = encode_blocks(format, dtype, weights, rows, k, p, to, {});
    EXPECT_EQ(status.code(), StatusCode::invalid_argument);
    return status.message();
  };
  const float* p = importance.data();
  EXPECT_EQ(message(nullptr, 2, 512, p, blocks.data()), "w: expected a pointer, got null");
  EXPECT_EQ(message(w.data(), 2, 512, p, nullptr), "blocks: expected a pointer, got null");
  EXPECT_EQ(message(w.data(), 2, 500, p, blocks.data()),
            "k: expected a positive multiple of 256, got 500");
  EXPECT_EQ(message(w.data(), 2, 0, p, blocks.data()),
            "k: expected a positive multiple of 256, got 0");
  EXPECT_EQ(message(w.data(), -1, 512, p, blocks.data()).find("rows: expected 0 .. "), 0u);
  EXPECT_EQ(message(w.data(), int64_t{1} << 60, 512, p, blocks.data()).find("rows: expected"), 0u);
  EXPECT_EQ(message(w.data(), 2, 512, p, blocks.data(), DType{9}),
            "dtype: expected f32, f16 or bf16, got 9");
  EXPECT_TRUE(encode_blocks(format, DType::f32, nullptr, 0, 512, p, nullptr, {}).ok());
  w[900] = std::numeric_limits<float>::infinity();
  w[1000] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(message(w.data(), 2, 512, p, blocks.data()),
            "w: expected finite numbers, got inf at row 1 column 388");
  w[300] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(message(w.data(), 2, 512, p, blocks.data()),
            "w: expected finite numbers, got nan at row 0 column 300");
  importance[7] = -1;
  EXPECT_EQ(message(w.data(), 2, 512, p, blocks.data()),
            "importance: expected finite numbers from 0 on, got -1.000000 at 7");
  importance[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(message(w.data(), 2, 512, p, blocks.data()).find("importance: expected finite"), 0u);
}

}  // namespace
}  // namespace qcore
