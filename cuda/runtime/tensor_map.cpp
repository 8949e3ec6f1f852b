// Tensor maps as the hardware wants them. The driver encodes them; it is looked up at run time, so
// that the library loads where there is none.
#include "ptx/tensor_map.h"

#include <cuda.h>

#include "runtime/device.h"
#include "runtime/launch.h"

namespace qcore::cuda {
namespace {

static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) >= 64);

using Encode = decltype(&cuTensorMapEncodeTiled);

Status find_encode(Encode& encode) {
  static Encode found = nullptr;
  static const Status status = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    constexpr unsigned kVersion = 12000;  // the first CUDA that has it
    const cudaError_t error = cudaGetDriverEntryPointByVersion(
        "cuTensorMapEncodeTiled", &function, kVersion, cudaEnableDefault, &result);
    if (error != cudaSuccess) return check(error, "tensor map");
    if (result != cudaDriverEntryPointSuccess || !function) {
      return Status{StatusCode::device_error,
                    "tensor map: the driver has no cuTensorMapEncodeTiled, expected one for "
                    "CUDA 12.0 or newer"};
    }
    found = reinterpret_cast<Encode>(function);
    return Status{};
  }();
  encode = found;
  return status;
}

CUtensorMapDataType element_type(int bytes) {
  return bytes == 1   ? CU_TENSOR_MAP_DATA_TYPE_UINT8
         : bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_UINT16
                      : CU_TENSOR_MAP_DATA_TYPE_UINT32;
}

CUtensorMapSwizzle swizzle_mode(Swizzle swizzle) {
  switch (swizzle) {
    case Swizzle::bytes32: return CU_TENSOR_MAP_SWIZZLE_32B;
    case Swizzle::bytes64: return CU_TENSOR_MAP_SWIZZLE_64B;
    case Swizzle::bytes128: return CU_TENSOR_MAP_SWIZZLE_128B;
    case Swizzle::none: break;
  }
  return CU_TENSOR_MAP_SWIZZLE_NONE;
}

}  // namespace

Status Launcher::tensor_map(const TensorFacts& facts, TensorMap& map) const {
  Encode encode = nullptr;
  for (const Status& status : {facts.check(), find_encode(encode)}) {
    if (!status.ok()) return status;
  }
  cuuint64_t size[3], stride[2];
  cuuint32_t box[3];
  for (int i = 0; i < 3; ++i) {
    size[i] = facts.size[i];
    box[i] = facts.box[i];
  }
  for (int i = 0; i < 2; ++i) stride[i] = facts.stride[i];
  constexpr cuuint32_t kSteps[3] = {1, 1, 1};
  const CUresult result =
      encode(reinterpret_cast<CUtensorMap*>(&map), element_type(facts.element_bytes),
             static_cast<cuuint32_t>(facts.rank), const_cast<void*>(facts.base), size, stride, box,
             kSteps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_mode(facts.swizzle),
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return {};
  return {StatusCode::device_error,
          "tensor map: the driver says error " + std::to_string(static_cast<int>(result))};
}

}  // namespace qcore::cuda
