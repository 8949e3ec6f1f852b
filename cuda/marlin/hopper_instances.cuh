// Instantiates every tile of the Hopper kernel for one element type.
#pragma once

#include "launch.cuh"
#include "marlin/hopper.cuh"

#define QCORE_MARLIN_HOPPER_INSTANCE(bits, floats, blocks, tokens)                              \
  template Status cuda::launch<                                                                 \
      marlin::HopperGemm<QCORE_MARLIN_T, marlin::HopperVariant<bits, floats, blocks, tokens>>>( \
      int, int, const marlin::HopperParams&, cudaStream_t);
#define QCORE_MARLIN_HOPPER_REDUCE                                    \
  template Status cuda::launch<marlin::ReduceShared<QCORE_MARLIN_T>>( \
      int, int, const marlin::ReduceSharedParams&, cudaStream_t);
#define QCORE_MARLIN_HOPPER_INSTANCES(blocks, tokens)    \
  QCORE_MARLIN_HOPPER_INSTANCE(4, false, blocks, tokens) \
  QCORE_MARLIN_HOPPER_INSTANCE(8, false, blocks, tokens) \
  QCORE_MARLIN_HOPPER_INSTANCE(8, true, blocks, tokens)
