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

// The scale and the zero point of a tile of a weight.
struct TileScale {
  float scale = 1, zero = 0;
};

inline float zero_of(const TiledElements& grid, const float* zeros, int64_t tile) {
  if (zeros) return zeros[tile];
  return grid.numbers ? 0.0f : own_zero(grid.elements);
}

inline TileScale given_scale_of_tile(const FakeQuantizeArgs& args, int64_t tile) {
  return {args.given_scale[tile], zero_of(args.grid, args.given_zero, tile)};
}

// As the extremes of its elements say.
inline TileScale scale_of_tile(const FakeQuantizeArgs& args, const RowExtremes& e) {
  const TiledElements& grid = args.grid;
  const auto storable = [&](float scale) {
    return storable_scale(args.scale_type, args.second, scale);
  };
  if (!grid.zero_points) return {storable(e.amax() / greatest_of(grid)), zero_of(grid, nullptr, 0)};
  const float low = std::min(e.low, 0.0f), high = std::max(e.high, 0.0f);
  const auto most = static_cast<float>((1 << bits_of(grid.elements)) - 1);
  const float range = e.nan ? std::numeric_limits<float>::quiet_NaN() : (high - low) / most;
  const float scale = storable(range);
  return {scale, clamp_or_low(std::nearbyint(-low / scale), 0.0f, most)};
}

inline Status no_memory_for(const char* op, const char* what) {
  return {StatusCode::out_of_memory, std::string(op) + ": no memory for " + what};
}

inline ExtremesArray allocate_extremes(int64_t count) {
  return ExtremesArray(new (std::nothrow) RowExtremes[static_cast<size_t>(count)]);
}

}  // namespace qcore
