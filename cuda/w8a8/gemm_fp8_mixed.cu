// The pairs of formats with an e5m2 in them.
#include "w8a8/gemm_instances.cuh"

namespace qcore {
#define QCORE_W8A8_X ptx::E4m3
#define QCORE_W8A8_W ptx::E5m2
QCORE_W8A8_FEW_VARIANTS(QCORE_W8A8_INSTANCE)
#undef QCORE_W8A8_X
#define QCORE_W8A8_X ptx::E5m2
QCORE_W8A8_FEW_VARIANTS(QCORE_W8A8_INSTANCE)
#undef QCORE_W8A8_W
#define QCORE_W8A8_W ptx::E4m3
QCORE_W8A8_FEW_VARIANTS(QCORE_W8A8_INSTANCE)
}  // namespace qcore
