// The quantizers that run on every machine, one element at a time.
#include <cmath>
#include <cstring>
#include <memory>
#include <new>

#include "cpu/quantize/kernels.h"
#include "numerics/float16.h"
#include "numerics/float8.h"
#include "numerics/float_mode.h"
#include "numerics/scale_rules.h"

namespace qcore::reference {
namespace {

constexpr int kLanes = 16;  // of the sum of squares, see quantize.h

std::unique_ptr<float[]> allocate(int64_t count) {
  return std::unique_ptr<float[]>(new (std::nothrow) float[static_cast<size_t>(count)]);
}

Status no_memory(const char* op) {
  return {StatusCode::out_of_memory, std::string(op) + "_reference: no memory for a copy of x"};
}

// Row m in float32, normalised if that is asked for.
void load_row(const FloatRows& x, int64_t m, float* row) {
  for (int64_t k = 0; k < x.k; ++k) row[k] = load_scalar(x.dtype, x.x, m * x.stride + k);
  if (!x.norm_weight) return;
  float lanes[kLanes] = {};
  for (int64_t k = 0; k < x.k; ++k) lanes[k % kLanes] = std::fma(row[k], row[k], lanes[k % kLanes]);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  }
  const float mean = lanes[0] / static_cast<float>(x.k);
  const float factor = 1.0f / std::sqrt(mean + x.norm_eps);
  for (int64_t k = 0; k < x.k; ++k) {
    row[k] = row[k] * factor * load_scalar(x.norm_dtype, x.norm_weight, k);
  }
}

struct Extremes {
  float low = std::numeric_limits<float>::infinity(), high = -low;
  bool finite = true, nan = false;

  void add(const float* x, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      low = std::min(low, x[i]);
      high = std::max(high, x[i]);
      finite = finite && std::isfinite(x[i]);
      nan = nan || std::isnan(x[i]);
    }
  }
  float amax() const {
    return nan ? std::numeric_limits<float>::quiet_NaN() : std::max(-low, high);
  }
};

void quantize_row(const float* x, int64_t count, Int8Parameters p, int8_t* q) {
  const float low = static_cast<float>(-128 - p.zero), high = static_cast<float>(127 - p.zero);
  for (int64_t k = 0; k < count; ++k) {
    const float rounded = clamp_or_low(std::nearbyint(x[k] / p.scale), low, high);
    q[k] = static_cast<int8_t>(static_cast<int32_t>(rounded) + p.zero);
  }
}

void quantize_row(const float* x, int64_t count, Float8 type, float scale, uint8_t* q) {
  const float most = max_of(type);
  for (int64_t k = 0; k < count; ++k) {
    float value = x[k] / scale;
    if (value > most) value = most;
    if (value < -most) value = -most;
    q[k] = float8_from_f32(type, value);
  }
}

}  // namespace

Status quantize_int8(const QuantizeInt8Args& args, const Executor&) {
  const FloatRows& x = args.x;
  const auto row = allocate(x.k);
  if (!row) return no_memory("quantize_int8");
  const ExactSubnormals mode;
  const bool whole = args.granularity == Granularity::tensor;
  Extremes extremes;
  for (int64_t m = 0; whole && !args.given_scale && m < x.m; ++m) {
    load_row(x, m, row.get());
    extremes.add(row.get(), x.k);
  }
  for (int64_t m = 0; m < x.m; ++m) {
    load_row(x, m, row.get());
    const int64_t at = whole ? 0 : m;
    Int8Parameters p;
    if (args.given_scale) {
      p = {args.given_scale[at], args.given_zero ? args.given_zero[at] : 0};
    } else {
      if (!whole) {
        extremes = {};
        extremes.add(row.get(), x.k);
      }
      p = int8_parameters(args.symmetric, extremes.low, extremes.high, extremes.finite);
    }
    quantize_row(row.get(), x.k, p, args.q + m * x.k);
    if (args.scale) args.scale[at] = p.scale;
    if (args.zero) args.zero[at] = p.zero;
  }
  return {};
}

Status quantize_fp8(const QuantizeFp8Args& args, const Executor&) {
  const FloatRows& x = args.x;
  const auto row = allocate(x.k);
  if (!row) return no_memory("quantize_fp8");
  const ExactSubnormals mode;
  const bool whole = args.granularity == Granularity::tensor;
  const int64_t block = args.granularity == Granularity::block ? kScaleBlock : x.k;
  const int64_t blocks = ceil_div(x.k, block);
  Extremes extremes;
  for (int64_t m = 0; whole && !args.given_scale && m < x.m; ++m) {
    load_row(x, m, row.get());
    extremes.add(row.get(), x.k);
  }
  for (int64_t m = 0; m < x.m; ++m) {
    load_row(x, m, row.get());
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = b * block, count = std::min(block, x.k - first);
      const int64_t at = whole ? 0 : m * blocks + b;
      if (!whole && !args.given_scale) {
        extremes = {};
        extremes.add(row.get() + first, count);
      }
      const float scale =
          args.given_scale ? args.given_scale[at] : fp8_scale(args.type, extremes.amax());
      quantize_row(row.get() + first, count, args.type, scale, args.q + m * x.k + first);
      if (args.scale) args.scale[at] = scale;
    }
  }
  return {};
}

}  // namespace qcore::reference
