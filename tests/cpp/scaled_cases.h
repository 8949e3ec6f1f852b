// Problems for the CUDA kernels of ops "int8" and "fp8", with their exact answers.
#pragma once

#include <cmath>

#include "cases.h"
#include "gpu_cases.h"
#include "simt/float8.h"

namespace qcore::testing {

struct W8A8Case {
  int64_t m = 1, n = 1, k = 16, gap = 0;
  bool integer = true;
  Float8 x_type = Float8::e4m3, w_type = Float8::e4m3;
  Granularity x_scales = Granularity::row, w_scales = Granularity::row;
  bool zero = false, w_sum = false, bias = false;
  DType bias_dtype = DType::f32, dtype = DType::f32;
  // x is floats first, quantized in the call.
  bool floats = false, given = false, norm = false;
  DType x_dtype = DType::bf16;
};

inline std::string describe(const W8A8Case& c) {
  std::string text = "m=" + std::to_string(c.m) + " n=" + std::to_string(c.n) +
                     " k=" + std::to_string(c.k) + " gap=" + std::to_string(c.gap) + " ";
  text += c.integer ? "int8" : std::string(name(c.x_type)) + " x " + name(c.w_type);
  text +=
      std::string(" scales=") + name(c.x_scales) + "," + name(c.w_scales) + " y=" + name(c.dtype);
  if (c.zero) text += " zero";
  if (c.w_sum) text += " w_sum";
  if (c.bias) text += std::string(" bias=") + name(c.bias_dtype);
  if (c.floats) text += std::string(" floats=") + name(c.x_dtype);
  if (c.given) text += " given";
  if (c.norm) text += " norm";
  return text;
}

// Sizes around the tiles: 8 .. 128 tokens, 128 rows, chunks of 128 columns. `any`: what only the
// reference takes as well.
inline W8A8Case random_case(Rng& rng, bool integer, bool any) {
  W8A8Case c;
  c.integer = integer;
  c.m = pick<int64_t>(rng, {1, 2, 7, 8, 9, 16, 17, 33, 64, 65, 129, uniform(rng, 1, 150)});
  c.n = pick<int64_t>(rng, {1, 5, 8, 64, 120, 127, 128, 129, 136, 256, uniform(rng, 1, 300)});
  c.k = 16 * pick<int64_t>(rng, {1, 2, 7, 8, 9, 16, 17, 40, uniform(rng, 1, 80)});
  c.gap = pick<int64_t>(rng, {0, 0, 16, 48});
  if (any) {
    c.m = uniform(rng, 1, 12);
    c.k = uniform(rng, 1, 500);
    c.gap = uniform(rng, 0, 3);
  }
  const auto type = [&] { return pick(rng, {Float8::e4m3, Float8::e4m3, Float8::e5m2}); };
  c.x_type = type();
  c.w_type = type();
  c.x_scales = pick(rng, {Granularity::tensor, Granularity::row});
  c.w_scales = pick(rng, {Granularity::tensor, Granularity::row});
  if (!integer && uniform(rng, 0, 2) == 0) c.x_scales = c.w_scales = Granularity::block;
  c.zero = integer && pick(rng, {false, true});
  c.w_sum = pick(rng, {false, true});
  c.bias = pick(rng, {false, true});
  c.dtype = pick(rng, {DType::f32, DType::f16, DType::bf16});
  c.bias_dtype = pick(rng, {DType::f32, c.dtype});
  c.floats = pick(rng, {false, true});
  c.given = c.floats && c.x_scales != Granularity::block && pick(rng, {false, false, true});
  if (c.floats && !c.given && c.x_scales == Granularity::tensor) c.x_scales = Granularity::row;
  c.norm = c.floats && pick(rng, {false, false, true});
  c.x_dtype = pick(rng, {DType::f32, DType::f16, DType::bf16});
  return c;
}

// All that a product reads, in the memory of the host.
struct W8A8Data {
  W8A8Case shape;
  std::vector<uint8_t> x, w;  // x of 8 bits, if there are no floats
  Buffer floats, norm_weight, bias;
  std::vector<float> x_scale, w_scale;
  std::vector<int32_t> x_zero, w_sum;

  int64_t stride() const { return shape.k + shape.gap; }
};

inline int64_t scale_count(Granularity scales, int64_t rows, int64_t k, bool weight) {
  if (scales == Granularity::tensor) return 1;
  if (scales == Granularity::row) return rows;
  return (weight ? ceil_div(rows, kScaleBlock) : rows) * ceil_div(k, kScaleBlock);
}

inline W8A8Data random_data(const W8A8Case& c, Rng& rng) {
  W8A8Data d;
  d.shape = c;
  // Any byte but NaN, infinity and what is near them for e5m2, whose squares leave fp32's range in
  // a long sum.
  const auto fill = [&](std::vector<uint8_t>& bytes, int64_t count, Float8 type) {
    bytes.resize(static_cast<size_t>(count));
    for (uint8_t& byte : bytes) {
      byte = static_cast<uint8_t>(rng());
      if (!c.integer && type == Float8::e4m3 && (byte & 0x7f) == 0x7f) byte &= 0x80;
      if (!c.integer && type == Float8::e5m2 && (byte & 0x7f) > 0x60) byte &= 0xbf;
    }
  };
  fill(d.x, c.m * d.stride(), c.x_type);
  fill(d.w, c.n * c.k, c.w_type);
  // Many magnitudes, but y shall fit its dtype.
  const int largest = !c.integer && c.dtype == DType::f16 ? -12 : -2;
  const auto fill_scales = [&](std::vector<float>& scales, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      scales.push_back(std::ldexp(1.0f + 0.001f * static_cast<float>(uniform(rng, 0, 999)),
                                  largest - static_cast<int>(uniform(rng, 0, 16))));
    }
  };
  fill_scales(d.x_scale, scale_count(c.x_scales, c.m, c.k, false));
  fill_scales(d.w_scale, scale_count(c.w_scales, c.n, c.k, true));
  for (size_t i = 0; i < d.x_scale.size(); ++i) {
    d.x_zero.push_back(static_cast<int32_t>(uniform(rng, -128, 127)));
  }
  for (int64_t n = 0; n < c.n; ++n) {
    int32_t sum = 0;
    for (int64_t k = 0; k < c.k; ++k) {
      sum += static_cast<int8_t>(d.w[static_cast<size_t>(n * c.k + k)]);
    }
    d.w_sum.push_back(sum);
  }
  std::normal_distribution<float> normal;
  d.bias = Buffer(c.bias_dtype, c.n);
  for (int64_t n = 0; n < c.n; ++n) d.bias.set(n, normal(rng));
  d.floats = Buffer(c.x_dtype, c.m * d.stride());
  std::fill(d.floats.bytes.begin(), d.floats.bytes.end(), char(0xff));
  for (int64_t m = 0; m < c.m; ++m) {
    const float size = std::ldexp(1.0f, static_cast<int>(uniform(rng, -6, 6)));
    for (int64_t k = 0; k < c.k; ++k) d.floats.set(m * d.stride() + k, normal(rng) * size);
  }
  d.norm_weight = Buffer(c.x_dtype, c.k);
  for (int64_t k = 0; k < c.k; ++k) d.norm_weight.set(k, normal(rng));
  return d;
}

// float32(sum), the exact sum rounded once.
inline float int8_sum(const W8A8Data& d, int64_t m, int64_t n) {
  const W8A8Case& c = d.shape;
  int64_t sum = 0;
  const size_t zero_at = c.x_scales == Granularity::tensor ? 0 : static_cast<size_t>(m);
  const int64_t zero = c.zero ? d.x_zero[zero_at] : 0;
  for (int64_t k = 0; k < c.k; ++k) {
    sum += (static_cast<int8_t>(d.x[static_cast<size_t>(m * d.stride() + k)]) - zero) *
           static_cast<int8_t>(d.w[static_cast<size_t>(n * c.k + k)]);
  }
  return static_cast<float>(sum);
}

// The bits of y, as qcore/int8.h defines them.
inline std::vector<char> exact_int8(const W8A8Data& d) {
  const W8A8Case& c = d.shape;
  Buffer y(c.dtype, c.m * c.n);
  for (int64_t m = 0; m < c.m; ++m) {
    for (int64_t n = 0; n < c.n; ++n) {
      const float scaled =
          int8_sum(d, m, n) *
          d.x_scale[c.x_scales == Granularity::tensor ? 0 : static_cast<size_t>(m)];
      const float w = d.w_scale[c.w_scales == Granularity::tensor ? 0 : static_cast<size_t>(n)];
      y.set(m * c.n + n, c.bias ? std::fma(scaled, w, d.bias.get(n)) : scaled * w);
    }
  }
  return y.bytes;
}

// Integers give the very bits.
inline void expect_exact_int8(const W8A8Data& d, const std::vector<char>& y,
                              const std::string& what) {
  const std::vector<char> exact = exact_int8(d);
  for (int64_t i = 0; i < d.shape.m * d.shape.n; ++i) {
    ASSERT_EQ(load_scalar(d.shape.dtype, y.data(), i), load_scalar(d.shape.dtype, exact.data(), i))
        << what << ", at " << i;
  }
  ASSERT_EQ(y, exact) << what;
}

// The longest sums of the largest products, with the largest zero points. `w_sum`: the sums over
// the weight's rows are given.
inline W8A8Data largest_int8(int64_t m, int64_t n, bool w_sum, Rng& rng) {
  W8A8Data d =
      random_data({.m = m, .n = n, .k = (1 << 17) - 16, .zero = true, .w_sum = w_sum}, rng);
  std::fill(d.x.begin(), d.x.end(), uint8_t{0x80});
  std::fill(d.w.begin(), d.w.end(), uint8_t{0x80});
  std::fill(d.x_zero.begin(), d.x_zero.end(), 127);
  for (int32_t& sum : d.w_sum) sum = static_cast<int32_t>(-128 * d.shape.k);
  return d;
}

// NaN and infinities of FP8, and a scale that is NaN, and that they stay in their rows and columns.
inline W8A8Data nan_among_fp8(Rng& rng) {
  const W8A8Case c{.m = 20, .n = 140, .k = 272, .integer = false, .x_type = Float8::e5m2};
  W8A8Data d = random_data(c, rng);
  d.x[static_cast<size_t>(3 * c.k + 200)] = 0x7c;  // infinity
  d.x[static_cast<size_t>(9 * c.k + 5)] = 0x7e;    // NaN
  for (int64_t n = 0; n < c.n; ++n) d.w[static_cast<size_t>(n * c.k + 200)] = 0x38;
  d.w[static_cast<size_t>(131 * c.k)] = 0xff;
  d.x_scale[12] = NAN;
  return d;
}
inline void expect_nan_in_place(const W8A8Case& c, const std::vector<char>& y) {
  for (int64_t i = 0; i < c.m * c.n; ++i) {
    const float value = load_scalar(c.dtype, y.data(), i);
    const int64_t m = i / c.n, n = i % c.n;
    if (m == 9 || m == 12 || n == 131) {
      EXPECT_TRUE(std::isnan(value)) << m << " " << n;
    } else {
      EXPECT_EQ(std::isfinite(value), m != 3) << m << " " << n;
      EXPECT_FALSE(std::isnan(value)) << m << " " << n;
      EXPECT_EQ(value, m == 3 ? INFINITY : value) << m << " " << n;
    }
  }
}

inline std::vector<Exact> exact_fp8(const W8A8Data& d) {
  const W8A8Case& c = d.shape;
  const auto& x_values = simt::float8_values(c.x_type == Float8::e4m3 ? simt::kE4m3 : simt::kE5m2);
  const auto& w_values = simt::float8_values(c.w_type == Float8::e4m3 ? simt::kE4m3 : simt::kE5m2);
  const int64_t blocks = ceil_div(c.k, kScaleBlock);
  const auto at = [&](Granularity scales, int64_t row, int64_t k) {
    if (scales == Granularity::tensor) return size_t{0};
    return static_cast<size_t>(scales == Granularity::row ? row : row * blocks + k / kScaleBlock);
  };
  std::vector<Exact> y;
  for (int64_t m = 0; m < c.m; ++m) {
    for (int64_t n = 0; n < c.n; ++n) {
      Exact e{c.bias ? d.bias.get(n) : 0.0, 0};
      e.magnitude = std::abs(e.value);
      const int64_t w_row = c.w_scales == Granularity::block ? n / kScaleBlock : n;
      for (int64_t k = 0; k < c.k; ++k) {
        const double product = x_values[d.x[static_cast<size_t>(m * d.stride() + k)]] *
                               w_values[d.w[static_cast<size_t>(n * c.k + k)]] *
                               d.x_scale[at(c.x_scales, m, k)] *
                               d.w_scale[at(c.w_scales, w_row, k)];
        e.value += product;
        e.magnitude += std::abs(product);
      }
      y.push_back(e);
    }
  }
  return y;
}

}  // namespace qcore::testing
