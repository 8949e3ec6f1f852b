// Instantiates every tile of the Hopper kernel for one element type.
#pragma once

#include "launch.cuh"
#include "marlin/hopper.cuh"

#define QCORE_MARLIN_HOPPER_INSTANCE(bits, blocks, tokens)                                       \
  template Status                                                                                \
  cuda::launch<marlin::HopperGemm<QCORE_MARLIN_T, marlin::HopperVariant<bits, blocks, tokens>>>( \
      int, int, const marlin::HopperParams&, cudaStream_t);
#define QCORE_MARLIN_HOPPER_REDUCE                                    \
  template Status cuda::launch<marlin::ReduceShared<QCORE_MARLIN_T>>( \
      int, int, const marlin::ReduceSharedParams&, cudaStream_t);
#define QCORE_MARLIN_HOPPER_INSTANCES(blocks, tokens) \
  QCORE_MARLIN_HOPPER_INSTANCE(4, blocks, tokens)     \
  QCORE_MARLIN_HOPPER_INSTANCE(8, blocks, tokens)
