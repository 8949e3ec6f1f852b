#define QCORE_W4A16_T ptx::Bfloat
#include "w4a16/hopper_instances.cuh"

namespace qcore {
QCORE_W4A16_HOPPER_VARIANTS(QCORE_W4A16_HOPPER_INSTANCES)
QCORE_W4A16_HOPPER_REDUCE
}  // namespace qcore
