// How the scale and the zero point of a row follow from its extremes. The rows of every instruction
// set use it, for the same bits.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "numerics/float16.h"
#include "numerics/float8.h"
#include "qcore/types.h"

namespace qcore {

struct Int8Parameters {
  float scale = 1;
  int32_t zero = 0;
};

// As max(value, low), then min(that, high), of the SSE instructions: NaN becomes `low`.
inline float clamp_or_low(float value, float low, float high) {
  return value > low ? std::min(value, high) : low;
}

// `finite`: whether all elements of the row are.
inline Int8Parameters int8_parameters(bool symmetric, float low, float high, bool finite) {
  const float range = symmetric ? std::max(-low, high) / 127.0f
                                : (std::max(high, 0.0f) - std::min(low, 0.0f)) / 255.0f;
  Int8Parameters p;
  p.scale = range == 0.0f ? 1.0f : range;
  if (!finite || !std::isfinite(range)) p.scale = std::numeric_limits<float>::quiet_NaN();
  if (!symmetric) {
    const float zero = std::nearbyint(-128.0f - std::min(low, 0.0f) / p.scale);
    p.zero = static_cast<int32_t>(clamp_or_low(zero, -128.0f, 127.0f));
  }
  return p;
}

// `amax` may be infinite or NaN.
inline float fp8_scale(Float8 type, float amax) {
  const float scale = amax / max_of(type);
  return scale == 0.0f ? 1.0f : scale;
}

// The nearest scale that can be stored; 1 where there were only zeros (or a NaN), never 0 and never
// infinite.
inline float storable_scale(ScaleType type, float scale) {
  if (!(scale > 0.0f)) return 1.0f;
  const auto within = [scale](float least, float most) { return std::clamp(scale, least, most); };
  switch (type) {
    case ScaleType::f32: return within(0x1p-126f, std::numeric_limits<float>::max());
    // float16 and e4m3 have few exponents: a subnormal scale with some bits left beats one that is
    // too large.
    case ScaleType::f16: return f32_from_f16(f16_from_f32(within(0x1p-20f, 65504.0f)));
    case ScaleType::bf16: return f32_from_bf16(bf16_from_f32(within(0x1p-126f, 0x1.fep127f)));
    case ScaleType::e4m3: return f32_from_e4m3(e4m3_from_f32(within(0x1p-9f, 448.0f)));
    case ScaleType::e8m0: {  // the nearest power of two; halves go up, but for the last one
      const auto bits = std::bit_cast<uint32_t>(within(0x1p-127f, 0x1p127f));
      if (bits < 0x800000u) return bits > 0x400000u ? 0x1p-126f : 0x1p-127f;
      return std::bit_cast<float>((bits + 0x400000u) & 0x7f800000u);
    }
  }
  return 1.0f;
}

// The same, as a multiple of one float for all of the weight; 0: there is none.
inline float storable_scale(ScaleType type, float second, float scale) {
  return second == 0.0f ? storable_scale(type, scale)
                        : storable_scale(type, scale / second) * second;
}

}  // namespace qcore
