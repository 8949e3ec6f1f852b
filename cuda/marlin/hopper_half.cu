#define QCORE_MARLIN_T ptx::Half
#include "marlin/hopper_instances.cuh"

namespace qcore {
QCORE_MARLIN_HOPPER_VARIANTS(QCORE_MARLIN_HOPPER_INSTANCES)
QCORE_MARLIN_HOPPER_REDUCE
}  // namespace qcore
