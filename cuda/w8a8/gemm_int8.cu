#define QCORE_W8A8_X ptx::Int8
#define QCORE_W8A8_W ptx::Int8
#include "w8a8/gemm_instances.cuh"

namespace qcore {
QCORE_W8A8_VARIANTS(QCORE_W8A8_INSTANCE)
}  // namespace qcore
