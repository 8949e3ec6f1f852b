#include "scaled/hopper_kernels.cuh"

namespace qcore {
#define QCORE_HOPPER_TILE(...) QCORE_HOPPER_GEMM(ptx::Int8, ptx::Int8, false, __VA_ARGS__)
QCORE_HOPPER_INT8_TILES(QCORE_HOPPER_TILE)
}  // namespace qcore
