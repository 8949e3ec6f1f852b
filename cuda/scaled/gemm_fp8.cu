#define QCORE_SCALED_X ptx::E4m3
#define QCORE_SCALED_W ptx::E4m3
#include "scaled/gemm_instances.cuh"

namespace qcore {
QCORE_SCALED_VARIANTS(QCORE_SCALED_INSTANCE)
}  // namespace qcore
