// The definition behind launch.h: include it where kernels are instantiated.
#pragma once

#include <atomic>

#include "runtime/device.h"
#include "runtime/launch.h"

namespace qcore::cuda {

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kMinBlocks)
    entry(const __grid_constant__ typename Kernel::Params params) {
  Kernel::run(params);
}

// More than 48 KB of shared memory for a block must be asked for, once per GPU and kernel.
template <class Kernel>
Status allow_shared_memory() {
  static std::atomic<uint64_t> asked{0};  // a bit per GPU
  int index = 0;
  if (Status status = check(cudaGetDevice(&index), "device"); !status.ok()) return status;
  const uint64_t bit = index < 64 ? uint64_t{1} << index : 0;
  if (asked.load(std::memory_order_relaxed) & bit) return {};
  Properties device;
  if (Status status = properties(index, device); !status.ok()) return status;
  for (const cudaError_t error :
       {cudaFuncSetAttribute(entry<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             device.shared_bytes),
        cudaFuncSetAttribute(entry<Kernel>, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared)}) {
    if (Status status = check(error, "shared memory"); !status.ok()) return status;
  }
  asked.fetch_or(bit, std::memory_order_relaxed);
  return {};
}

template <class Kernel>
Status launch(int blocks, int shared_bytes, const typename Kernel::Params& params,
              cudaStream_t stream) {
  if (shared_bytes > 48 << 10) {
    if (Status status = allow_shared_memory<Kernel>(); !status.ok()) return status;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(Kernel::kThreads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  // Blocks that wait for each other must all run at the same time, or the launch fails.
  cudaLaunchAttribute together = {};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  if constexpr (requires { Kernel::meets_grid(params); }) {
    config.attrs = &together;
    config.numAttrs = Kernel::meets_grid(params) ? 1 : 0;
  }
  return check(cudaLaunchKernelEx(&config, entry<Kernel>, params), "launch");
}

}  // namespace qcore::cuda
