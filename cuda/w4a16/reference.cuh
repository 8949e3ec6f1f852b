// The CUDA kernel that takes every problem, any permutation and group size too, straight from the
// definition of the layout.
#pragma once

#include "tile/reference.cuh"
#include "w4a16/layout.h"

namespace qcore::w4a16 {

struct ReferenceParams {
  DType dtype, scale_dtype;
  const void* x;
  int64_t x_stride;  // elements
  int64_t m;
  Geometry geometry;
  const uint8_t* qweight;
  const void* scales;
  const uint8_t* zeros;  // null if symmetric
  int center;
  Elements elements;
  const int32_t* perm;
  const void* bias;
  void* y;
};

struct Reference : tile::ReferenceShape {
  using Params = ReferenceParams;

  QCORE_DEVICE static void run(const Params& p) {
    tile::reference_product(
        p, p.geometry.n, p.geometry.k,
        [&](int64_t n, int64_t column) { return weight(p, n, column); },
        // As in Gather: a permutation that names no column gives NaN.
        [&](int64_t column) -> int64_t {
          return p.perm ? ptx::load_global(p.perm + column) : column;
        });
  }

 private:
  QCORE_DEVICE static float weight(const Params& p, int64_t n, int64_t column) {
    const Geometry& g = p.geometry;
    const int code = unpack_code(g, p.qweight, n, column, GlobalLoad{});
    const int64_t parameter = g.parameter(n, column / g.group_size);
    const float scale = load_element(p.scale_dtype, p.scales, parameter);
    if (is_float(p.elements)) {
      return scale * float_of(float8_of(p.elements), static_cast<uint32_t>(code));
    }
    const int zero = p.zeros ? ptx::load_global(p.zeros + parameter) : p.center;
    return scale * static_cast<float>(code - zero);
  }
};

}  // namespace qcore::w4a16
