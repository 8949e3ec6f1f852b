#define QCORE_SCALED_X ptx::Int8
#define QCORE_SCALED_W ptx::Int8
#include "scaled/gemm_instances.cuh"

namespace qcore {
QCORE_SCALED_VARIANTS(QCORE_SCALED_INSTANCE)
}  // namespace qcore
