#define QCORE_MARLIN_T ptx::Bfloat
#include "marlin/gemm_instances.cuh"

namespace qcore {
QCORE_MARLIN_VARIANTS(QCORE_MARLIN_INSTANCES)
}  // namespace qcore
