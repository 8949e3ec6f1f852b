// Instantiates every variant of the kernel for one element type.
#pragma once

#include "launch.cuh"
#include "marlin/gemm.cuh"

#define QCORE_MARLIN_INSTANCE(bits, flush, token_tiles, warps_k)                                  \
  template Status                                                                                 \
  cuda::launch<marlin::Gemm<QCORE_MARLIN_T, marlin::Variant<bits, flush, token_tiles, warps_k>>>( \
      int, int, const marlin::GemmParams&, cudaStream_t);
#define QCORE_MARLIN_INSTANCES(token_tiles, warps_k) \
  QCORE_MARLIN_INSTANCE(4, 4, token_tiles, warps_k)  \
  QCORE_MARLIN_INSTANCE(4, 2, token_tiles, warps_k)  \
  QCORE_MARLIN_INSTANCE(4, 1, token_tiles, warps_k)  \
  QCORE_MARLIN_INSTANCE(8, 2, token_tiles, warps_k)  \
  QCORE_MARLIN_INSTANCE(8, 1, token_tiles, warps_k)
