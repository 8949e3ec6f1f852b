#define QCORE_KQUANT_T ptx::Half
#include "kquant/gemm_instances.cuh"

namespace qcore {
QCORE_KQUANT_VARIANTS(QCORE_KQUANT_INSTANCES)
}  // namespace qcore
