// Instantiates the kernel for one pair of formats.
#pragma once

#include "runtime/launch.cuh"
#include "scaled/gemm.cuh"

#define QCORE_SCALED_INSTANCE(tokens, warps_n, stages, min_blocks)                            \
  template Status cuda::launch<scaled::Gemm<                                                  \
      QCORE_SCALED_X, QCORE_SCALED_W, scaled::Variant<tokens, warps_n, stages, min_blocks>>>( \
      int, int, const scaled::GemmParams&, cudaStream_t);
