// How the scale and the zero point of a row follow from its extremes. The rows of every instruction
// set use it, for the same bits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

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

}  // namespace qcore
