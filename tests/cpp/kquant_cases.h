// The one generator of problems with a weight in a block format, shared by the tests of every
// kernel of op "kquant": shapes, random blocks and activations, and the exact answer in double.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "cases.h"
#include "formats/blocks/blocks.h"

namespace qcore::testing {

template <class Block>
void set_scales(Rng& rng, float most, uint8_t* bytes, size_t size) {
  const auto scale = [&] {
    return most * (0.1f + 0.01f * static_cast<float>(uniform(rng, 0, 90)));
  };
  for (uint8_t* end = bytes + size; bytes < end; bytes += sizeof(Block)) {
    Block block;
    std::memcpy(&block, bytes, sizeof(Block));
    block.set_d(scale());
    if constexpr (Block::kHasMin) block.set_dmin(scale());
    std::memcpy(bytes, &block, sizeof(Block));
  }
}

// Gives blocks of any bits finite scales up to `most`.
inline void set_scales(const BlockFormat& format, Rng& rng, std::vector<uint8_t>& bytes,
                       float most = 0.01f) {
#define QCORE_BLOCK(name, number, elements, block_bytes, summary) \
  if (format.ggml_type == number) set_scales<blocks::name>(rng, most, bytes.data(), bytes.size());
#include "formats/blocks/blocks.def"
#undef QCORE_BLOCK
}

inline std::vector<uint8_t> random_blocks(const BlockShape& shape, Rng& rng) {
  std::vector<uint8_t> blocks(static_cast<size_t>(shape.bytes()));
  for (uint8_t& byte : blocks) byte = static_cast<uint8_t>(rng());
  set_scales(*shape.format, rng, blocks);
  return blocks;
}

struct KquantCase {
  BlockShape weight;
  int64_t m = 1;
  DType dtype = DType::f32;
  bool bias = false, float_activations = false;
  int64_t gap = 0;  // elements between rows of x
};

inline std::string describe(const KquantCase& c) {
  std::string text = std::string(c.weight.format->name) + " m=" + std::to_string(c.m) +
                     " n=" + std::to_string(c.weight.n) + " k=" + std::to_string(c.weight.k) +
                     " dtype=" + name(c.dtype);
  if (c.bias) text += " bias";
  if (c.float_activations) text += " floats";
  if (c.gap) text += " gap=" + std::to_string(c.gap);
  return text;
}

// Shapes at and around the boundaries of panels of 16, of blocks, and of tiles of rows.
inline KquantCase random_kquant_case(const BlockFormat& format, Rng& rng) {
  KquantCase c;
  c.weight.format = &format;
  c.weight.n = pick<int64_t>(rng, {1, 7, 8, 9, 15, 16, 17, 31, 32, 48, 65, uniform(rng, 1, 100)});
  c.weight.k = format.elements * uniform(rng, 1, format.elements == 32 ? 20 : 4);
  c.m = pick<int64_t>(rng, {0, 1, 1, 2, 3, 4, 5, 8, 13, 17, 33, uniform(rng, 1, 150)});
  if (c.m > 33) c.weight.n = std::min<int64_t>(c.weight.n, 33);
  c.dtype = pick(rng, {DType::f32, DType::f16, DType::bf16});
  c.bias = pick(rng, {false, true});
  c.float_activations = pick(rng, {false, false, true});
  c.gap = pick<int64_t>(rng, {0, 0, 1, 13});
  return c;
}

struct PackedKquant {
  std::vector<uint8_t> data;
  PackedBlocks view;
};

struct KquantData {
  KquantCase shape;
  std::vector<uint8_t> blocks;
  Buffer x, bias;
  int64_t x_stride = 0;

  KquantArgs args(const PackedBlocks& packed, void* y) const {
    return {.m = shape.m,
            .dtype = shape.dtype,
            .x = x.data(),
            .x_stride = x_stride,
            .weight = packed,
            .bias = shape.bias ? bias.data() : nullptr,
            .y = y,
            .float_activations = shape.float_activations};
  }
  PackedKquant pack(const BlockLayout& layout) const {
    PackedKquant packed;
    packed.data.assign(static_cast<size_t>(packed_bytes(layout, shape.weight)), 0xcc);
    EXPECT_TRUE(qcore::pack(layout, shape.weight, blocks.data(), packed.data.data(), {}).ok());
    packed.view = {shape.weight, layout.number, packed.data.data()};
    return packed;
  }
};

inline KquantData random_data(const KquantCase& c, Rng& rng) {
  KquantData d{c, random_blocks(c.weight, rng), {}, {}, c.weight.k + c.gap};
  d.x = Buffer(c.dtype, std::max<int64_t>(0, c.m * d.x_stride - c.gap));
  std::fill(d.x.bytes.begin(), d.x.bytes.end(), char(0xff));  // NaN in the gaps
  std::normal_distribution<float> normal;
  for (int64_t m = 0; m < c.m; ++m) {
    for (int64_t k = 0; k < c.weight.k; ++k) d.x.set(m * d.x_stride + k, normal(rng));
  }
  d.bias = Buffer(c.dtype, c.weight.n);
  for (int64_t n = 0; n < c.weight.n; ++n) d.bias.set(n, normal(rng));
  return d;
}

// [M, K]: what the product is made of, x or its 8-bit approximation by blocks of K.
inline std::vector<double> activations(const KquantData& d) {
  const int64_t m = d.shape.m, k = d.shape.weight.k;
  const int64_t width = d.shape.weight.format->elements;
  std::vector<double> x;
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t i = 0; i < k; i += width) {
      float most = 0;
      for (int64_t j = i; j < i + width; ++j)
        most = std::max(most, std::abs(d.x.get(row * d.x_stride + j)));
      for (int64_t j = i; j < i + width; ++j) {
        const float value = d.x.get(row * d.x_stride + j);
        const double q = most == 0 ? 0.0 : static_cast<double>(std::rint(value * (127.0f / most)));
        x.push_back(d.shape.float_activations ? static_cast<double>(value)
                                              : q * static_cast<double>(most) / 127.0);
      }
    }
  }
  return x;
}

// [M, N], from the codes, scales and minima of the blocks.
inline std::vector<Exact> exact_gemm(const KquantData& d) {
  const BlockFormat& format = *d.shape.weight.format;
  const int64_t m = d.shape.m, n = d.shape.weight.n, k = d.shape.weight.k;
  const std::vector<double> x = activations(d);
  const size_t elements = static_cast<size_t>(n * k),
               groups = elements / static_cast<size_t>(format.group);
  std::vector<uint8_t> codes(elements);
  std::vector<float> scales(groups), mins(groups);
  EXPECT_TRUE(split_blocks(format, d.blocks.data(), n * d.shape.weight.blocks_per_row(),
                           codes.data(), scales.data(), mins.data(), {})
                  .ok());
  std::vector<Exact> y;
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t column = 0; column < n; ++column) {
      double value = d.shape.bias ? static_cast<double>(d.bias.get(column)) : 0.0;
      double magnitude = std::abs(value);
      for (int64_t i = 0; i < k; ++i) {
        const auto at = static_cast<size_t>(column * k + i),
                   g = at / static_cast<size_t>(format.group);
        const double factor = x[static_cast<size_t>(row * k + i)];
        const double product = factor * static_cast<double>(scales[g]) * format.values[codes[at]];
        const double less = factor * static_cast<double>(mins[g]);
        value += product - less;
        magnitude += std::abs(product) + std::abs(less);
      }
      y.push_back({value, magnitude});
    }
  }
  return y;
}

}  // namespace qcore::testing
