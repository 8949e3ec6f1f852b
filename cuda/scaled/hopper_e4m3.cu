#include "scaled/hopper_kernels.cuh"

namespace qcore {
#define QCORE_HOPPER_TILE(...)                                \
  QCORE_HOPPER_GEMM(ptx::E4m3, ptx::E4m3, false, __VA_ARGS__) \
  QCORE_HOPPER_GEMM(ptx::E4m3, ptx::E4m3, true, __VA_ARGS__)  \
  QCORE_HOPPER_GEMM(ptx::E4m3, ptx::E5m2, false, __VA_ARGS__) \
  QCORE_HOPPER_GEMM(ptx::E4m3, ptx::E5m2, true, __VA_ARGS__)
QCORE_HOPPER_FP8_TILES(QCORE_HOPPER_TILE)
}  // namespace qcore
