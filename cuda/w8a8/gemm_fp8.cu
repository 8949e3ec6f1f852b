#define QCORE_W8A8_X ptx::E4m3
#define QCORE_W8A8_W ptx::E4m3
#include "w8a8/gemm_instances.cuh"

namespace qcore {
QCORE_W8A8_VARIANTS(QCORE_W8A8_INSTANCE)
}  // namespace qcore
