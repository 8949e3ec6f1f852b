// Instantiates every variant of the kernel for one element type: of each family of formats
// (variant.h) one member stands for all.
#pragma once

#include "kquant/gemm.cuh"
#include "runtime/launch.cuh"

#define QCORE_KQUANT_INSTANCE(block, token_tiles, warps_k)                                      \
  template Status cuda::launch<kquant::Gemm<                                                    \
      QCORE_KQUANT_T, kquant::Variant<kquant::FamilyOf<blocks::block>, token_tiles, warps_k>>>( \
      int, int, const kquant::GemmParams&, cudaStream_t);
#define QCORE_KQUANT_INSTANCES(token_tiles, warps_k)  \
  QCORE_KQUANT_INSTANCE(Q4_0, token_tiles, warps_k)   \
  QCORE_KQUANT_INSTANCE(Q5_0, token_tiles, warps_k)   \
  QCORE_KQUANT_INSTANCE(Q8_0, token_tiles, warps_k)   \
  QCORE_KQUANT_INSTANCE(Q2_K, token_tiles, warps_k)   \
  QCORE_KQUANT_INSTANCE(Q3_K, token_tiles, warps_k)   \
  QCORE_KQUANT_INSTANCE(Q4_K, token_tiles, warps_k)   \
  QCORE_KQUANT_INSTANCE(Q5_K, token_tiles, warps_k)   \
  QCORE_KQUANT_INSTANCE(Q6_K, token_tiles, warps_k)   \
  QCORE_KQUANT_INSTANCE(IQ4_XS, token_tiles, warps_k) \
  QCORE_KQUANT_INSTANCE(TQ2_0, token_tiles, warps_k)
