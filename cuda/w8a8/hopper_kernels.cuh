// Instantiates the Hopper kernel for one kind of elements and every tile.
#pragma once

#include "launch.cuh"
#include "w8a8/hopper.cuh"

#define QCORE_HOPPER_KERNEL(...) \
  template Status cuda::launch<__VA_ARGS__>(int, int, const w8a8::HopperParams&, cudaStream_t);
#define QCORE_HOPPER_GEMM(X, W, block_scales, groups, blocks, columns) \
  QCORE_HOPPER_KERNEL(                                                 \
      w8a8::HopperGemm<X, W, w8a8::HopperTile<groups, blocks, columns>, block_scales>)
