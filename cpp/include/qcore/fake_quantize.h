// Ops "fake_quantize" and "fake_quantize_backward": a weight as it is read back after it was
// quantized, and the gradients through that rounding.
#pragma once

#include <cstdint>

#include "qcore/elements.h"
#include "qcore/executor.h"
#include "qcore/export.h"
#include "qcore/kernel.h"
#include "qcore/quantize.h"
#include "qcore/status.h"
#include "qcore/types.h"

namespace QCORE_API qcore {

// Elements under scales, in tiles of a matrix [N, K] from its first row and column on; the last
// tile of each direction may be smaller. Scales and zero points are [N / rows, K / columns],
// rounded up.
struct TiledElements {
  Elements elements = Elements::u4;
  const float* numbers = nullptr;  // [count], ascending: a codebook, in place of `elements`
  int64_t count = 0;
  int64_t rows = 1, columns = 1;  // of a tile
  bool zero_points = false;       // of unsigned integers; else the zero is center_of(elements)

  constexpr int64_t bands(int64_t n) const { return ceil_div(n, rows); }
  constexpr int64_t groups(int64_t k) const { return ceil_div(k, columns); }
};

inline constexpr int64_t kMostNumbers = 256;  // of a codebook

// Of integers, where no zero points are stored: the middle of their codes, which of s8 are those of
// u8.
constexpr float own_zero(Elements elements) {
  return is_float(elements) ? 0.0f : static_cast<float>(1 << (bits_of(elements) - 1));
}
// What the largest magnitude of a tile becomes.
constexpr float greatest_of(const TiledElements& grid) {
  if (grid.numbers) {
    const float low = -grid.numbers[0], high = grid.numbers[grid.count - 1];
    return low > high ? low : high;
  }
  if (is_float(grid.elements)) return max_of(float8_of(grid.elements));
  // The positive end is clipped by half a step, and the grid is finer by more than that costs.
  return own_zero(grid.elements) - 0.5f;
}

// y = scale * (element - zero), of the element that is nearest to w / scale + zero. In float32,
// rne: round to nearest even.
//   unsigned integers and s8:  clamp(rne(w / scale) + zero, 0, 2^bits - 1); s8 counts from 128
//   floats:                    convert(clamp(w / scale, -max, max)), to nearest even, zero = 0
//   codebook:                  the number that is nearest, the smaller of two, zero = 0
// NaN stays NaN. Where no scales are given they come from the tile, of which amax is max|w|:
//   no zero points:  scale = storable(amax / greatest), greatest of integers 2^(bits - 1) - 0.5,
//                    else the largest magnitude of an element
//   zero points:     lo = min(w, 0), hi = max(w, 0), scale = storable((hi - lo) / (2^bits - 1)),
//                    zero = clamp(rne(-lo / scale), 0, 2^bits - 1)
// storable() is of numerics/scale_rules.h, for scales in `scale_type`, times `second` if that is
// not 0.
struct FakeQuantizeArgs {
  FloatRows w;  // [N, K], without a norm
  TiledElements grid;
  const float* given_scale = nullptr;  // null: from w
  const float* given_zero = nullptr;   // with given_scale, if there are zero points
  ScaleType scale_type = ScaleType::f32;
  float second = 0;
  void* y = nullptr;       // [N, K], contiguous, of the type of w
  float* scale = nullptr;  // those used; null: not wanted
  float* zero = nullptr;   // the same; null if there are no zero points

  constexpr bool empty() const { return w.m == 0; }
};

// Of a number whose element was not clamped, which lies inside:
//   dw = dy,  dscale += dy * (element - zero - w / scale)
// and of one outside:
//   dw = dy or 0,  dscale += dy * (element - zero),  dzero -= dy * scale
// Sums over a row of a tile are taken in 16 lanes: lane j adds the columns j, j + 16, ... by fused
// multiply-adds, then lane j adds lane j + 8, j + 4, j + 2, j + 1; then rows in order.
struct FakeQuantizeBackwardArgs {
  FloatRows w, dy;  // [N, K], of the same type
  TiledElements grid;
  const float* scale = nullptr;
  const float* zero = nullptr;
  bool passes_outside = false;  // dw of numbers outside
  void* dw = nullptr;           // [N, K], contiguous, of the type of w
  float* dscale = nullptr;      // like scale; null: not wanted
  float* dzero = nullptr;

  constexpr bool empty() const { return w.m == 0; }
};

struct FakeQuantizeProblem {
  Device device = Device::cpu;
  int sm = 0;  // compute capability of the GPU; 0: not known yet
  int64_t n = 0, k = 0;
  DType dtype = DType::f32;
};

struct FakeQuantize {
  static constexpr const char* kName = "fake_quantize";
  using Args = FakeQuantizeArgs;
  using Problem = FakeQuantizeProblem;
  using Layout = qcore::Layout;
};

struct FakeQuantizeBackward {
  static constexpr const char* kName = "fake_quantize_backward";
  using Args = FakeQuantizeBackwardArgs;
  using Problem = FakeQuantizeProblem;
  using Layout = qcore::Layout;
};

Status fake_quantize(const FakeQuantizeArgs& args, const Executor& executor);
Status fake_quantize_backward(const FakeQuantizeBackwardArgs& args, const Executor& executor);

}  // namespace QCORE_API qcore
