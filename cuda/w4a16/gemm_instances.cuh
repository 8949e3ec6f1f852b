// Instantiates every variant of the kernel for one element type and one width of stored codes.
#pragma once

#include "runtime/launch.cuh"
#include "w4a16/gemm.cuh"
#include "w4a16/plan.h"

#define QCORE_W4A16_INSTANCE(bits, flush, token_tiles, warps_k)                                \
  template Status                                                                              \
  cuda::launch<w4a16::Gemm<QCORE_W4A16_T, w4a16::Variant<bits, flush, token_tiles, warps_k>>>( \
      int, int, const w4a16::GemmParams&, cudaStream_t);
#define QCORE_W4A16_INSTANCES_4(token_tiles, warps_k) \
  QCORE_W4A16_INSTANCE(4, 4, token_tiles, warps_k)    \
  QCORE_W4A16_INSTANCE(4, 2, token_tiles, warps_k)    \
  QCORE_W4A16_INSTANCE(4, 1, token_tiles, warps_k)
#define QCORE_W4A16_INSTANCES_8(token_tiles, warps_k) \
  QCORE_W4A16_INSTANCE(8, 2, token_tiles, warps_k)    \
  QCORE_W4A16_INSTANCE(8, 1, token_tiles, warps_k)
