// What the loops of the quantizers need from outside, included before a target region is opened:
// code here is compiled for any machine and may be shared.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <string>

#include "cpu/quantize/kernels.h"
#include "cpu/simd/target.h"
#include "numerics/float16.h"
#include "numerics/float_mode.h"
#include "numerics/scale_rules.h"

namespace qcore {

using FloatArray = std::unique_ptr<float[]>;

// Null if there is no memory.
inline FloatArray allocate_floats(int64_t count) {
  return FloatArray(new (std::nothrow) float[static_cast<size_t>(count)]);
}

// Of a row, as its vectors found them.
struct RowExtremes {
  float low = std::numeric_limits<float>::infinity(), high = -low;
  bool finite = true, nan = false;

  void add(const RowExtremes& other) {
    low = std::min(low, other.low);
    high = std::max(high, other.high);
    finite = finite && other.finite;
    nan = nan || other.nan;
  }
  float amax() const {
    return nan ? std::numeric_limits<float>::quiet_NaN() : std::max(-low, high);
  }
};

using ExtremesArray = std::unique_ptr<RowExtremes[]>;

inline ExtremesArray allocate_extremes(int64_t count) {
  return ExtremesArray(new (std::nothrow) RowExtremes[static_cast<size_t>(count)]);
}

}  // namespace qcore
