// The kernels around the product, and the reference.
#include "runtime/launch.cuh"
#include "scaled/finish.cuh"
#include "scaled/reference.cuh"
#include "scaled/row_sums.cuh"

namespace qcore {

using ptx::E4m3, ptx::E5m2;

#define QCORE_SCALED_KERNEL(...) \
  template Status cuda::launch<__VA_ARGS__>(int, int, const __VA_ARGS__::Params&, cudaStream_t)
QCORE_SCALED_KERNEL(scaled::SumRows);
QCORE_SCALED_KERNEL(scaled::Reduce<int32_t>);
QCORE_SCALED_KERNEL(scaled::Reduce<float>);
QCORE_SCALED_KERNEL(scaled::Reference<ptx::Int8, ptx::Int8>);
QCORE_SCALED_KERNEL(scaled::Reference<E4m3, E4m3>);
QCORE_SCALED_KERNEL(scaled::Reference<E4m3, E5m2>);
QCORE_SCALED_KERNEL(scaled::Reference<E5m2, E4m3>);
QCORE_SCALED_KERNEL(scaled::Reference<E5m2, E5m2>);
#undef QCORE_SCALED_KERNEL

}  // namespace qcore
