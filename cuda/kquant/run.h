// The launches of the block formats. `launch` starts a kernel: on a GPU, or in the emulator.
#pragma once

#include "kquant/blocks.h"
#include "kquant/dequantize.cuh"

namespace qcore::kquant {

// launch.template operator()<Kernel>(blocks, shared_bytes, params) -> Status
template <class Launch>
Status run_dequantize(const BlockFormat& format, const DequantizeParams& params,
                      const Launch& launch) {
  return with_block(format, [&]<class Block>() {
    using Kernel = Dequantize<Block>;
    return launch.template operator()<Kernel>(static_cast<int>(Kernel::tiles(params.count)),
                                              Kernel::kTileBytes, params);
  });
}

}  // namespace qcore::kquant
