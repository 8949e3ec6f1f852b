// The CUDA kernel that takes every product, straight from the definition of the layout.
#pragma once

#include "kquant/layout.h"
#include "tile/reference.cuh"

namespace qcore::kquant {

struct ReferenceParams {
  DType dtype;
  const void* x;
  int64_t x_stride;  // elements
  int64_t m;
  Geometry geometry;
  const void* weight;
  uint32_t values[4];  // of codes that name one: 16 signed bytes
  const void* bias;
  void* y;
};

struct Reference : tile::ReferenceShape {
  using Params = ReferenceParams;

  QCORE_DEVICE static void run(const Params& p) {
    tile::reference_product(
        p, p.geometry.n, p.geometry.k,
        [&](int64_t n, int64_t column) { return weight(p, n, column); },
        [](int64_t column) { return column; });
  }

 private:
  QCORE_DEVICE static float weight(const Params& p, int64_t n, int64_t column) {
    const Geometry& g = p.geometry;
    const Traits& t = g.traits;
    const int code = code_at(t, g, p.weight, n, column, GlobalLoad{});
    const int value =
        t.table ? static_cast<int8_t>(p.values[code / 4] >> (code % 4 * 8) & 0xff) : code - t.zero;
    const Halves halves = halves_at(t, g, p.weight, n, column / t.elements, GlobalLoad{});
    float d =
        t.bfloat_d ? ptx::to_float<ptx::Bfloat>(halves.d) : ptx::to_float<ptx::Half>(halves.d);
    float min = ptx::to_float<ptx::Half>(halves.min);
    if (t.scales != Scales::none) {
      const int scales = scales_at(t, g, p.weight, n, column, GlobalLoad{});
      const int shift = t.scales == Scales::pair ? 8 : 4;
      d *= static_cast<float>(t.scales == Scales::one ? scales - 128 : scales & ((1 << shift) - 1));
      min *= static_cast<float>(scales >> shift);
    }
    const float product = ptx::multiply(d, static_cast<float>(value));
    return t.has_min ? product + min : product;
  }
};

}  // namespace qcore::kquant
