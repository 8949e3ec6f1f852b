// fake_quantize and its backward pass on every machine, one element at a time.
#include <cmath>
#include <memory>
#include <new>

#include "cpu/quantize/prelude.h"
#include "numerics/float8.h"

namespace qcore::reference {
namespace {

constexpr int kLanes = 16;  // of sums, see fake_quantize.h

// What a number becomes: where it was before it was clamped, and the element less its zero.
struct Found {
  float low, high, before, value;

  bool inside() const { return !(before < low) && !(high < before); }
};

Found find(const TiledElements& grid, float quotient, float zero) {
  if (grid.numbers) {
    float value = grid.numbers[0];
    for (int64_t i = 1; i < grid.count; ++i) {
      if ((grid.numbers[i] + grid.numbers[i - 1]) / 2 < quotient) value = grid.numbers[i];
    }
    if (std::isnan(quotient)) value = quotient;
    return {grid.numbers[0], grid.numbers[grid.count - 1], quotient, value};
  }
  const auto clamped = [](float x, float low, float high) {
    return x < low ? low : high < x ? high : x;  // NaN stays
  };
  if (is_float(grid.elements)) {
    const Float8 type = float8_of(grid.elements);
    const float most = max_of(type);
    const uint8_t code = float8_from_f32(type, clamped(quotient, -most, most));
    return {-most, most, quotient, f32_from_float8(type, code)};
  }
  const auto most = static_cast<float>((1 << bits_of(grid.elements)) - 1);
  const float before = std::nearbyint(quotient) + zero;
  return {0.0f, most, before, clamped(before, 0.0f, most) - zero};
}

RowExtremes extremes_of(const FakeQuantizeArgs& args, int64_t band, int64_t group) {
  const TiledElements& grid = args.grid;
  RowExtremes e;
  for (int64_t n = band * grid.rows; n < std::min((band + 1) * grid.rows, args.w.m); ++n) {
    for (int64_t k = group * grid.columns; k < std::min((group + 1) * grid.columns, args.w.k);
         ++k) {
      const float w = load_scalar(args.w.dtype, args.w.x, n * args.w.stride + k);
      e.low = std::min(e.low, w);
      e.high = std::max(e.high, w);
      e.nan = e.nan || std::isnan(w);
    }
  }
  return e;
}

}  // namespace

Status fake_quantize(const FakeQuantizeArgs& args, const Executor&) {
  const ExactSubnormals mode;
  const FloatRows& w = args.w;
  const TiledElements& grid = args.grid;
  const int64_t groups = grid.groups(w.k);
  for (int64_t band = 0; band < grid.bands(w.m); ++band) {
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t tile = band * groups + group;
      const TileScale t = args.given_scale ? given_scale_of_tile(args, tile)
                                           : scale_of_tile(args, extremes_of(args, band, group));
      if (args.scale) args.scale[tile] = t.scale;
      if (args.zero) args.zero[tile] = t.zero;
      for (int64_t n = band * grid.rows; n < std::min((band + 1) * grid.rows, w.m); ++n) {
        for (int64_t k = group * grid.columns; k < std::min((group + 1) * grid.columns, w.k); ++k) {
          const float quotient = load_scalar(w.dtype, w.x, n * w.stride + k) / t.scale;
          const float y = find(grid, quotient, t.zero).value * t.scale;
          store_scalar(w.dtype, args.y, n * w.k + k, y);
        }
      }
    }
  }
  return {};
}

Status fake_quantize_backward(const FakeQuantizeBackwardArgs& args, const Executor&) {
  const ExactSubnormals mode;
  const FloatRows &w = args.w, &dy = args.dy;
  const TiledElements& grid = args.grid;
  const int64_t groups = grid.groups(w.k);
  const auto sum = [](float (&lanes)[kLanes]) {
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
    }
    return lanes[0];
  };
  for (int64_t tile = 0; tile < grid.bands(w.m) * groups; ++tile) {
    const int64_t band = tile / groups, first = tile % groups * grid.columns;
    const float scale = args.scale[tile], zero = zero_of(grid, args.zero, tile);
    float of_scale = 0, outside = 0;
    for (int64_t n = band * grid.rows; n < std::min((band + 1) * grid.rows, w.m); ++n) {
      float scale_lanes[kLanes] = {}, outside_lanes[kLanes] = {};
      for (int64_t k = first; k < std::min(first + grid.columns, w.k); ++k) {
        const float quotient = load_scalar(w.dtype, w.x, n * w.stride + k) / scale;
        const float gradient = load_scalar(dy.dtype, dy.x, n * dy.stride + k);
        const Found found = find(grid, quotient, zero);
        const bool inside = found.inside();
        store_scalar(w.dtype, args.dw, n * w.k + k,
                     inside || args.passes_outside ? gradient : 0.0f);
        float& lane = scale_lanes[(k - first) % kLanes];
        lane = std::fma(gradient, found.value - (inside ? quotient : 0.0f), lane);
        outside_lanes[(k - first) % kLanes] += inside ? 0.0f : gradient;
      }
      of_scale += sum(scale_lanes);
      outside += sum(outside_lanes);
    }
    if (args.dscale) args.dscale[tile] = of_scale;
    if (args.dzero) args.dzero[tile] = -scale * outside;
  }
  return {};
}

}  // namespace qcore::reference
