// Instantiates the kernel for one pair of formats.
#pragma once

#include "launch.cuh"
#include "w8a8/gemm.cuh"

#define QCORE_W8A8_INSTANCE(tokens, warps_n, stages, min_blocks)                                   \
  template Status cuda::launch<                                                                    \
      w8a8::Gemm<QCORE_W8A8_X, QCORE_W8A8_W, w8a8::Variant<tokens, warps_n, stages, min_blocks>>>( \
      int, int, const w8a8::GemmParams&, cudaStream_t);
