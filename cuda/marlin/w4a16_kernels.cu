// The kernels around the product, and the packers.
#include "launch.cuh"
#include "marlin/activations.cuh"
#include "marlin/pack.cuh"
#include "marlin/reduce.cuh"
#include "marlin/reference.cuh"

namespace qcore {

#define QCORE_MARLIN_KERNEL(...) \
  template Status cuda::launch<__VA_ARGS__>(int, int, const __VA_ARGS__::Params&, cudaStream_t)
QCORE_MARLIN_KERNEL(marlin::Gather);
QCORE_MARLIN_KERNEL(marlin::Reduce<ptx::Half>);
QCORE_MARLIN_KERNEL(marlin::Reduce<ptx::Bfloat>);
QCORE_MARLIN_KERNEL(marlin::Reference);
QCORE_MARLIN_KERNEL(marlin::PackCodes);
QCORE_MARLIN_KERNEL(marlin::UnpackCodes);
QCORE_MARLIN_KERNEL(marlin::PackParameters<uint8_t>);
QCORE_MARLIN_KERNEL(marlin::PackParameters<uint16_t>);
QCORE_MARLIN_KERNEL(marlin::PackParameters<uint32_t>);
QCORE_MARLIN_KERNEL(marlin::UnpackParameters<uint8_t>);
QCORE_MARLIN_KERNEL(marlin::UnpackParameters<uint16_t>);
QCORE_MARLIN_KERNEL(marlin::UnpackParameters<uint32_t>);
#undef QCORE_MARLIN_KERNEL

}  // namespace qcore
