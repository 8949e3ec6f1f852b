// The one generator of problems on 8-bit activations, shared by the tests of every kernel: shapes,
// random data, and the exact answers.
#pragma once

#include <vector>

#include "cases.h"
#include "numerics/float8.h"
#include "output.h"

namespace qcore::testing {

// Scales of many magnitudes.
inline float random_scale(Rng& rng) {
  return std::exp2(std::normal_distribution<float>(-6, 4)(rng));
}

inline std::vector<float> random_scales(int64_t count, Rng& rng) {
  std::vector<float> scales(static_cast<size_t>(count));
  for (float& scale : scales) scale = random_scale(rng);
  return scales;
}

// Sizes at and around the boundaries of the kernels.
inline int64_t random_k(Rng& rng) {
  return pick<int64_t>(rng, {1, 3, 4, 15, 16, 17, 31, 32, 63, 64, 65, 127, 128, 129, 256, 300,
                             uniform(rng, 1, 700)});
}
inline int64_t random_n(Rng& rng) {
  return pick<int64_t>(rng,
                       {1, 3, 4, 15, 16, 17, 47, 48, 49, 96, 127, 128, 129, uniform(rng, 1, 300)});
}
inline int64_t random_m(Rng& rng) {
  return pick<int64_t>(rng, {1,
                             1,
                             2,
                             3,
                             4,
                             5,
                             6,
                             7,
                             15,
                             16,
                             17,
                             24,
                             25,
                             32,
                             33,
                             48,
                             63,
                             64,
                             65,
                             88,
                             89,
                             128,
                             uniform(rng, 1, 150)});
}

// -- int8
// ------------------------------------------------------------------------------------------

struct Int8Case {
  int64_t m = 1, n = 1, k = 1;
  DType dtype = DType::f32, bias_dtype = DType::f32;
  Granularity x_scales = Granularity::row, w_scales = Granularity::row;
  bool zeros = false, sums = false, bias = false;
  int64_t gap = 0;  // elements between rows of x
};

inline std::string describe(const Int8Case& c) {
  std::string text = "m=" + std::to_string(c.m) + " n=" + std::to_string(c.n) +
                     " k=" + std::to_string(c.k) + " dtype=" + name(c.dtype) +
                     " x_scales=" + name(c.x_scales) + " w_scales=" + name(c.w_scales);
  if (c.zeros) text += " zeros";
  if (c.sums) text += " sums";
  if (c.bias) text += std::string(" bias=") + name(c.bias_dtype);
  if (c.gap) text += " gap=" + std::to_string(c.gap);
  return text;
}

inline Int8Case random_int8_case(Rng& rng) {
  Int8Case c{.m = random_m(rng), .n = random_n(rng), .k = random_k(rng)};
  c.dtype = pick(rng, {DType::f32, DType::f16, DType::bf16});
  c.bias_dtype = pick(rng, {DType::f32, c.dtype});
  c.x_scales = pick(rng, {Granularity::row, Granularity::tensor});
  c.w_scales = pick(rng, {Granularity::row, Granularity::tensor});
  c.zeros = pick(rng, {false, true});
  c.sums = pick(rng, {false, true});
  c.bias = pick(rng, {false, true});
  c.gap = pick<int64_t>(rng, {0, 0, 1, 13});
  return c;
}

struct Int8Data {
  Int8Case shape;
  std::vector<int8_t> x, weight;
  std::vector<float> x_scale, w_scale;
  std::vector<int32_t> zeros, sums;
  Buffer bias;

  int64_t stride() const { return shape.k + shape.gap; }
  Int8Args args(void* y) const {
    Int8Args a;
    a.m = shape.m, a.n = shape.n, a.k = shape.k;
    a.x = x.data();
    a.x_stride = stride();
    a.weight = weight.data();
    a.x_scale = x_scale.data();
    a.x_scales = shape.x_scales;
    a.w_scale = w_scale.data();
    a.w_scales = shape.w_scales;
    a.x_zero = shape.zeros ? zeros.data() : nullptr;
    a.w_sum = shape.sums ? sums.data() : nullptr;
    a.bias = shape.bias ? bias.data() : nullptr;
    a.bias_dtype = shape.bias_dtype;
    a.dtype = shape.dtype;
    a.y = y;
    return a;
  }
};

// With `extreme` all codes are the largest or the least.
inline Int8Data random_data(const Int8Case& c, Rng& rng, bool extreme = false) {
  Int8Data d;
  d.shape = c;
  const auto code = [&] {
    if (extreme) return static_cast<int8_t>(rng() % 64 ? -128 : 127);
    return static_cast<int8_t>(rng() & 0xff);
  };
  d.x.resize(static_cast<size_t>(c.m * d.stride()));
  d.weight.resize(static_cast<size_t>(c.n * c.k));
  for (int8_t& v : d.x) v = code();
  for (int8_t& v : d.weight) v = code();
  d.x_scale = random_scales(c.x_scales == Granularity::tensor ? 1 : c.m, rng);
  d.w_scale = random_scales(c.w_scales == Granularity::tensor ? 1 : c.n, rng);
  d.zeros.resize(d.x_scale.size());
  for (int32_t& zero : d.zeros) zero = static_cast<int32_t>(uniform(rng, -128, 127));
  if (extreme) std::fill(d.zeros.begin(), d.zeros.end(), 127);
  d.sums.resize(static_cast<size_t>(c.n));
  for (int64_t n = 0; n < c.n; ++n) {
    int64_t sum = 0;
    for (int64_t k = 0; k < c.k; ++k) sum += d.weight[static_cast<size_t>(n * c.k + k)];
    d.sums[static_cast<size_t>(n)] = static_cast<int32_t>(sum);
  }
  d.bias = Buffer(c.bias_dtype, c.n);
  std::normal_distribution<float> normal;
  for (int64_t n = 0; n < c.n; ++n) d.bias.set(n, normal(rng));
  return d;
}

// y[m, n] by the roundings that int8.h promises.
inline float exact_int8(const Int8Data& d, int64_t m, int64_t n) {
  const Int8Case& c = d.shape;
  const int8_t* x = d.x.data() + m * d.stride();
  const int8_t* w = d.weight.data() + n * c.k;
  int64_t sum = 0;
  for (int64_t k = 0; k < c.k; ++k) sum += x[k] * w[k];
  const auto row = static_cast<size_t>(c.x_scales == Granularity::tensor ? 0 : m);
  const auto column = static_cast<size_t>(c.w_scales == Granularity::tensor ? 0 : n);
  if (c.zeros) sum -= int64_t{d.zeros[row]} * d.sums[static_cast<size_t>(n)];
  const float scaled = static_cast<float>(sum) * d.x_scale[row];
  const float y =
      c.bias ? std::fma(scaled, d.w_scale[column], d.bias.get(n)) : scaled * d.w_scale[column];
  Buffer rounded(c.dtype, 1);
  rounded.set(0, y);
  return rounded.get(0);
}

// -- fp8
// -------------------------------------------------------------------------------------------

struct Fp8Case {
  int64_t m = 1, n = 1, k = 1;
  Float8 x_type = Float8::e4m3, w_type = Float8::e4m3;
  Granularity x_scales = Granularity::row, w_scales = Granularity::row;
  DType dtype = DType::f32, bias_dtype = DType::f32;
  bool bias = false;
  int64_t gap = 0;
};

inline std::string describe(const Fp8Case& c) {
  std::string text = "m=" + std::to_string(c.m) + " n=" + std::to_string(c.n) +
                     " k=" + std::to_string(c.k) + " x=" + name(c.x_type) + " w=" + name(c.w_type) +
                     " dtype=" + name(c.dtype) + " x_scales=" + name(c.x_scales) +
                     " w_scales=" + name(c.w_scales);
  if (c.bias) text += std::string(" bias=") + name(c.bias_dtype);
  if (c.gap) text += " gap=" + std::to_string(c.gap);
  return text;
}

inline Fp8Case random_fp8_case(Rng& rng) {
  Fp8Case c{.m = random_m(rng), .n = random_n(rng), .k = random_k(rng)};
  c.x_type = pick(rng, {Float8::e4m3, Float8::e4m3, Float8::e5m2});
  c.w_type = pick(rng, {Float8::e4m3, Float8::e4m3, Float8::e5m2});
  c.x_scales = pick(rng, {Granularity::row, Granularity::tensor, Granularity::block});
  c.w_scales = pick(rng, {Granularity::row, Granularity::tensor});
  if (c.x_scales == Granularity::block) c.w_scales = Granularity::block;
  c.dtype = pick(rng, {DType::f32, DType::f16, DType::bf16});
  c.bias_dtype = pick(rng, {DType::f32, c.dtype});
  c.bias = pick(rng, {false, true});
  c.gap = pick<int64_t>(rng, {0, 0, 1, 13});
  return c;
}

struct Fp8Data {
  Fp8Case shape;
  std::vector<uint8_t> x, weight;
  std::vector<float> x_scale, w_scale;
  Buffer bias;

  int64_t stride() const { return shape.k + shape.gap; }
  int64_t blocks() const { return ceil_div(shape.k, kScaleBlock); }
  Fp8Args args(void* y) const {
    Fp8Args a;
    a.m = shape.m, a.n = shape.n, a.k = shape.k;
    a.x = x.data();
    a.x_stride = stride();
    a.x_type = shape.x_type;
    a.weight = weight.data();
    a.w_type = shape.w_type;
    a.x_scale = x_scale.data();
    a.x_scales = shape.x_scales;
    a.w_scale = w_scale.data();
    a.w_scales = shape.w_scales;
    a.bias = shape.bias ? bias.data() : nullptr;
    a.bias_dtype = shape.bias_dtype;
    a.dtype = shape.dtype;
    a.y = y;
    return a;
  }
};

// Every code but NaN and infinities; most of small magnitude, so that sums of halves do not
// overflow.
inline uint8_t random_float8(Float8 type, Rng& rng) {
  for (;;) {
    const auto bits = static_cast<uint8_t>(rng() & 0xff);
    const float value = f32_from_float8(type, bits);
    if (std::isfinite(value) && (std::abs(value) < 16 || rng() % 64 == 0)) return bits;
  }
}

inline Fp8Data random_data(const Fp8Case& c, Rng& rng) {
  Fp8Data d;
  d.shape = c;
  d.x.resize(static_cast<size_t>(c.m * d.stride()));
  d.weight.resize(static_cast<size_t>(c.n * c.k));
  for (uint8_t& v : d.x) v = random_float8(c.x_type, rng);
  for (uint8_t& v : d.weight) v = random_float8(c.w_type, rng);
  const auto count = [&](Granularity scales, int64_t rows, int64_t block_rows) {
    if (scales == Granularity::tensor) return int64_t{1};
    return scales == Granularity::row ? rows : block_rows * d.blocks();
  };
  d.x_scale = random_scales(count(c.x_scales, c.m, c.m), rng);
  d.w_scale = random_scales(count(c.w_scales, c.n, ceil_div(c.n, kScaleBlock)), rng);
  d.bias = Buffer(c.bias_dtype, c.n);
  std::normal_distribution<float> normal;
  for (int64_t n = 0; n < c.n; ++n) d.bias.set(n, normal(rng));
  return d;
}

// Value and sum of magnitudes of y[m, n].
inline Exact exact_fp8(const Fp8Data& d, int64_t m, int64_t n) {
  const Fp8Case& c = d.shape;
  const auto scale = [&](const std::vector<float>& scales, Granularity kind, int64_t row,
                         int64_t b) {
    if (kind == Granularity::tensor) return double{scales[0]};
    if (kind == Granularity::row) return double{scales[static_cast<size_t>(row)]};
    return double{scales[static_cast<size_t>(row * d.blocks() + b)]};
  };
  double value = c.bias ? d.bias.get(n) : 0.0, magnitude = std::abs(value);
  for (int64_t k = 0; k < c.k; ++k) {
    const int64_t b = k / kScaleBlock;
    const int64_t row = c.w_scales == Granularity::block ? n / kScaleBlock : n;
    const double x = f32_from_float8(c.x_type, d.x[static_cast<size_t>(m * d.stride() + k)]) *
                     scale(d.x_scale, c.x_scales, m, b);
    const double w = f32_from_float8(c.w_type, d.weight[static_cast<size_t>(n * c.k + k)]) *
                     scale(d.w_scale, c.w_scales, row, b);
    value += x * w;
    magnitude += std::abs(x * w);
  }
  return {value, magnitude};
}

// -- quantizers
// ------------------------------------------------------------------------------------

struct RowsCase {
  int64_t m = 1, k = 1;
  DType dtype = DType::f32, norm_dtype = DType::f32;
  bool norm = false;
  int64_t gap = 0;
};

inline std::string describe(const RowsCase& c) {
  std::string text =
      "m=" + std::to_string(c.m) + " k=" + std::to_string(c.k) + " dtype=" + name(c.dtype);
  if (c.norm) text += std::string(" norm=") + name(c.norm_dtype);
  if (c.gap) text += " gap=" + std::to_string(c.gap);
  return text;
}

inline RowsCase random_rows_case(Rng& rng) {
  RowsCase c{.m = pick<int64_t>(rng, {1, 2, 3, 5, uniform(rng, 1, 20)}), .k = random_k(rng)};
  c.dtype = pick(rng, {DType::f32, DType::f16, DType::bf16});
  c.norm_dtype = pick(rng, {DType::f32, c.dtype});
  c.norm = pick(rng, {false, true});
  c.gap = pick<int64_t>(rng, {0, 0, 1, 13});
  return c;
}

struct RowsData {
  RowsCase shape;
  Buffer x, norm_weight;

  FloatRows rows() const {
    FloatRows r;
    r.m = shape.m, r.k = shape.k;
    r.dtype = shape.dtype;
    r.x = x.data();
    r.stride = shape.k + shape.gap;
    r.norm_weight = shape.norm ? norm_weight.data() : nullptr;
    r.norm_dtype = shape.norm_dtype;
    return r;
  }
};

// Rows of many magnitudes; some are zeros, some hold what is not finite.
inline RowsData random_data(const RowsCase& c, Rng& rng) {
  const int64_t stride = c.k + c.gap;
  RowsData d{c, Buffer(c.dtype, c.m * stride), Buffer(c.norm_dtype, c.k)};
  std::fill(d.x.bytes.begin(), d.x.bytes.end(), char(0xff));  // NaN in the gaps
  std::normal_distribution<float> normal(0.3f);
  for (int64_t m = 0; m < c.m; ++m) {
    const float scale = rng() % 8 ? random_scale(rng) : 0.0f;
    for (int64_t k = 0; k < c.k; ++k) d.x.set(m * stride + k, normal(rng) * scale);
    if (rng() % 6 == 0) {
      d.x.set(m * stride + uniform(rng, 0, c.k - 1), pick(rng, {INFINITY, -INFINITY, NAN}));
    }
  }
  for (int64_t k = 0; k < c.k; ++k) d.norm_weight.set(k, 0.5f + std::abs(normal(rng)));
  return d;
}

}  // namespace qcore::testing
