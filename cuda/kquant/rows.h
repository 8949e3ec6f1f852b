// What the CUDA kernels of the block formats do, for the host.
#pragma once

#include "qcore/blocks.h"
#include "qcore/kquant.h"

namespace qcore::kquant {

struct DequantizeParams {
  const void* blocks;  // 16-byte aligned
  int64_t count;       // of blocks
  DType dtype;
  void* out;  // 16-byte aligned
};

// The checked call of decode_blocks() on a GPU.
Status dequantize(const BlockFormat& format, const DequantizeParams& params,
                  const Executor& executor);

// The rows of op "kquant".
Status workspace_bytes(const KquantArgs& args, const Executor& executor, int64_t& bytes);
Status gemm(const KquantArgs& args, const Executor& executor);
Status reference_gemm(const KquantArgs& args, const Executor& executor);

}  // namespace qcore::kquant
