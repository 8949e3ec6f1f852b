// The kernels around the product: decoding, packing, the reference.
#include "kquant/dequantize.cuh"
#include "kquant/pack.cuh"
#include "kquant/reference.cuh"
#include "runtime/launch.cuh"

namespace qcore {

#define QCORE_KQUANT_KERNEL(...) \
  template Status cuda::launch<__VA_ARGS__>(int, int, const __VA_ARGS__::Params&, cudaStream_t);
#define QCORE_BLOCK(name, type, elements, bytes, summary) \
  QCORE_KQUANT_KERNEL(kquant::Dequantize<blocks::name>)   \
  QCORE_KQUANT_KERNEL(kquant::Pack<blocks::name>)         \
  QCORE_KQUANT_KERNEL(kquant::Unpack<blocks::name>)
#include "formats/blocks/blocks.def"
#undef QCORE_BLOCK
QCORE_KQUANT_KERNEL(kquant::Reference)
#undef QCORE_KQUANT_KERNEL

}  // namespace qcore
