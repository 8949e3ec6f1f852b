// The kernels around the product, and the reference.
#include "launch.cuh"
#include "w8a8/finish.cuh"
#include "w8a8/reference.cuh"
#include "w8a8/row_sums.cuh"

namespace qcore {

using ptx::E4m3, ptx::E5m2;

#define QCORE_W8A8_KERNEL(...) \
  template Status cuda::launch<__VA_ARGS__>(int, int, const __VA_ARGS__::Params&, cudaStream_t)
QCORE_W8A8_KERNEL(w8a8::SumRows);
QCORE_W8A8_KERNEL(w8a8::Reduce<int32_t>);
QCORE_W8A8_KERNEL(w8a8::Reduce<float>);
QCORE_W8A8_KERNEL(w8a8::Reference<ptx::Int8, ptx::Int8>);
QCORE_W8A8_KERNEL(w8a8::Reference<E4m3, E4m3>);
QCORE_W8A8_KERNEL(w8a8::Reference<E4m3, E5m2>);
QCORE_W8A8_KERNEL(w8a8::Reference<E5m2, E4m3>);
QCORE_W8A8_KERNEL(w8a8::Reference<E5m2, E5m2>);
#undef QCORE_W8A8_KERNEL

}  // namespace qcore
