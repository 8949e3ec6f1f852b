#define QCORE_W4A16_T ptx::Bfloat
#include "w4a16/gemm_instances.cuh"

namespace qcore {
QCORE_W4A16_VARIANTS(QCORE_W4A16_INSTANCES_4)
}  // namespace qcore
