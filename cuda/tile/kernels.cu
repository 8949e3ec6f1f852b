// The kernels around a product with a packed weight.
#include "runtime/launch.cuh"
#include "tile/gather.cuh"
#include "tile/reduce.cuh"

namespace qcore {

#define QCORE_TILE_KERNEL(...) \
  template Status cuda::launch<__VA_ARGS__>(int, int, const __VA_ARGS__::Params&, cudaStream_t)
QCORE_TILE_KERNEL(tile::Gather);
QCORE_TILE_KERNEL(tile::Reduce<ptx::Half>);
QCORE_TILE_KERNEL(tile::Reduce<ptx::Bfloat>);
#undef QCORE_TILE_KERNEL

}  // namespace qcore
