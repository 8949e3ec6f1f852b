#include "formats/experts.h"

#include "qcore/layout.h"

namespace qcore {

int64_t expert_bytes(const BlockLayout& layout, const BlockShape& shape) {
  constexpr int64_t kLine = 64, kLayouts = 16;
  const int64_t bytes = layout.packed_bytes(shape.of_one_expert());
  return ceil_div(bytes, kLayouts * kLine) * kLayouts * kLine + layout.number * kLine;
}

PackedScaled expert_of(const PackedScaled& weight, const PackedSizes& sizes, int64_t expert) {
  const ScaledWeight one = weight.shape.of_one_expert();
  return {one, weight.layout, advance(weight.qweight, expert * sizes.qweight_bytes),
          advance(weight.scales, expert * sizes.scales * size_of(one.scale_dtype)),
          advance(weight.zeros, expert * sizes.zeros)};
}

}  // namespace qcore
