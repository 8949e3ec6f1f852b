// The kernels of quantize_int8 and quantize_fp8.
#pragma once

#include "quantize/rows.cuh"

namespace qcore::quantize {

// Rows are shared out among the blocks in turn.
template <class X>
struct Quantize {
  using Params = RowsParams;
  static constexpr int kThreads = quantize::kThreads;
  static constexpr int kMinBlocks = 5;

  QCORE_DEVICE static void run(const Params& p) {
    Quantizer<X> quantizer(p, ptx::shared_base());
    quantizer.find_tensor_scale();
    for (int64_t row = ptx::block_index(); row < p.m; row += ptx::block_count()) {
      quantizer.quantize(row);
    }
  }
};

// The extremes of the rows of each block, for the scale of a whole tensor. Maxima do not depend on
// the order, so the result does not either.
struct FindExtremes {
  using Params = RowsParams;
  static constexpr int kThreads = quantize::kThreads;
  static constexpr int kMinBlocks = 5;

  QCORE_DEVICE static void run(const Params& p) {
    Quantizer<ptx::Int8> quantizer(p, ptx::shared_base());
    Extremes e;
    for (int64_t row = ptx::block_index(); row < p.m; row += ptx::block_count()) {
      quantizer.add_extremes(row, e);
    }
    e = quantizer.reduce(e);
    if (ptx::thread_index() == 0) ptx::store_global(p.extremes + ptx::block_index(), e);
  }
};

}  // namespace qcore::quantize
