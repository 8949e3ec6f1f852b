// The pairs of formats with an e5m2 in them.
#include "scaled/gemm_instances.cuh"

namespace qcore {
#define QCORE_SCALED_X ptx::E4m3
#define QCORE_SCALED_W ptx::E5m2
QCORE_SCALED_FEW_VARIANTS(QCORE_SCALED_INSTANCE)
#undef QCORE_SCALED_X
#define QCORE_SCALED_X ptx::E5m2
QCORE_SCALED_FEW_VARIANTS(QCORE_SCALED_INSTANCE)
#undef QCORE_SCALED_W
#define QCORE_SCALED_W ptx::E4m3
QCORE_SCALED_FEW_VARIANTS(QCORE_SCALED_INSTANCE)
}  // namespace qcore
