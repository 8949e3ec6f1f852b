// Instantiates every variant of the kernel for one element type.
#pragma once

#include "launch.cuh"
#include "marlin/gemm.cuh"

#define QCORE_MARLIN_INSTANCE(token_tiles, warps_k)                                     \
  template Status cuda::launch<marlin::Gemm<QCORE_MARLIN_T, 4, token_tiles, warps_k>>(  \
      int, int, const marlin::GemmParams&, cudaStream_t);                               \
  template Status cuda::launch<marlin::Gemm<QCORE_MARLIN_T, 8, token_tiles, warps_k>>(  \
      int, int, const marlin::GemmParams&, cudaStream_t);
