// What the tests of the encoders share: weights, importances, and the error of what was stored.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "qcore/blocks.h"

namespace qcore::testing {

using Floats = std::vector<float>;

inline std::vector<uint8_t> encode(const BlockFormat& format, const Floats& w, int64_t k,
                                   const float* importance = nullptr,
                                   const Parallel& parallel = {}) {
  const int64_t n = static_cast<int64_t>(w.size());
  std::vector<uint8_t> blocks(static_cast<size_t>(n / format.elements * format.bytes), 0xcc);
  const Status status =
      encode_blocks(format, DType::f32, w.data(), n / k, k, importance, blocks.data(), parallel);
  EXPECT_TRUE(status.ok()) << status.message();
  return blocks;
}

inline Floats decode(const BlockFormat& format, const std::vector<uint8_t>& blocks) {
  const int64_t count = static_cast<int64_t>(blocks.size()) / format.bytes;
  Floats out(static_cast<size_t>(count * format.elements));
  EXPECT_TRUE(decode_blocks(format, blocks.data(), count, DType::f32, out.data(), {}).ok());
  return out;
}

// Sum of importance * (w - q)^2, which repeats every importance.size() elements.
inline double error_of(const Floats& w, const Floats& q, const Floats& importance = {1}) {
  double sum = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    const double r = static_cast<double>(w[i]) - q[i];
    sum += static_cast<double>(importance[i % importance.size()]) * r * r;
  }
  return sum;
}

inline Floats gaussian(size_t n, float scale = 0.02f, uint32_t seed = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  Floats w(n);
  for (float& value : w) value = normal(random);
  return w;
}
inline Floats laplace(size_t n) {
  std::mt19937 random(2);
  std::exponential_distribution<float> size(50);
  Floats w(n);
  for (float& value : w) value = random() % 2 ? size(random) : -size(random);
  return w;
}
inline Floats lognormal(size_t n) {
  Floats p = gaussian(n, 1.2f, 3);
  for (float& value : p) value = std::exp(value);
  return p;
}

}  // namespace qcore::testing
