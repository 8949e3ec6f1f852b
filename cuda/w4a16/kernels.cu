// The reference, and the packers.
#include "runtime/launch.cuh"
#include "w4a16/pack.cuh"
#include "w4a16/reference.cuh"

namespace qcore {

#define QCORE_W4A16_KERNEL(...) \
  template Status cuda::launch<__VA_ARGS__>(int, int, const __VA_ARGS__::Params&, cudaStream_t)
QCORE_W4A16_KERNEL(w4a16::Reference);
QCORE_W4A16_KERNEL(w4a16::PackCodes);
QCORE_W4A16_KERNEL(w4a16::UnpackCodes);
QCORE_W4A16_KERNEL(w4a16::PackParameters<uint8_t>);
QCORE_W4A16_KERNEL(w4a16::PackParameters<uint16_t>);
QCORE_W4A16_KERNEL(w4a16::PackParameters<uint32_t>);
QCORE_W4A16_KERNEL(w4a16::UnpackParameters<uint8_t>);
QCORE_W4A16_KERNEL(w4a16::UnpackParameters<uint16_t>);
QCORE_W4A16_KERNEL(w4a16::UnpackParameters<uint32_t>);
#undef QCORE_W4A16_KERNEL

}  // namespace qcore
