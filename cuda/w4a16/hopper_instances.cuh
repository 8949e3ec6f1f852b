// Instantiates every tile of the Hopper kernel for one element type.
#pragma once

#include "runtime/launch.cuh"
#include "w4a16/hopper.cuh"

#define QCORE_W4A16_HOPPER_INSTANCE(bits, floats, blocks, tokens)                            \
  template Status cuda::launch<                                                              \
      w4a16::HopperGemm<QCORE_W4A16_T, w4a16::HopperVariant<bits, floats, blocks, tokens>>>( \
      int, int, const w4a16::HopperParams&, cudaStream_t);
#define QCORE_W4A16_HOPPER_REDUCE                                   \
  template Status cuda::launch<w4a16::ReduceShared<QCORE_W4A16_T>>( \
      int, int, const w4a16::ReduceSharedParams&, cudaStream_t);
#define QCORE_W4A16_HOPPER_INSTANCES(blocks, tokens)    \
  QCORE_W4A16_HOPPER_INSTANCE(4, false, blocks, tokens) \
  QCORE_W4A16_HOPPER_INSTANCE(8, false, blocks, tokens) \
  QCORE_W4A16_HOPPER_INSTANCE(8, true, blocks, tokens)
