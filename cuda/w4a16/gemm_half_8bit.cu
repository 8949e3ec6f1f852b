#define QCORE_W4A16_T ptx::Half
#include "w4a16/gemm_instances.cuh"

namespace qcore {
QCORE_W4A16_VARIANTS(QCORE_W4A16_INSTANCES_8)
}  // namespace qcore
