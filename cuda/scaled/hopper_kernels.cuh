// Instantiates the Hopper kernel for one kind of elements and every tile.
#pragma once

#include "runtime/launch.cuh"
#include "scaled/hopper.cuh"

#define QCORE_HOPPER_KERNEL(...) \
  template Status cuda::launch<__VA_ARGS__>(int, int, const scaled::HopperParams&, cudaStream_t);
#define QCORE_HOPPER_GEMM(X, W, block_scales, groups, blocks, columns) \
  QCORE_HOPPER_KERNEL(                                                 \
      scaled::HopperGemm<X, W, scaled::HopperTile<groups, blocks, columns>, block_scales>)
