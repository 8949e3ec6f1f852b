// Starts kernels on a stream. Defined for the kernels that a .cu file instantiates with launch.cuh;
// whoever only calls them needs no device code.
#pragma once

#include <cuda_runtime_api.h>

#include "ptx/tensor_map.h"
#include "qcore/status.h"

namespace qcore::cuda {

template <class Kernel>
Status launch(int blocks, int shared_bytes, const typename Kernel::Params& params,
              cudaStream_t stream);

// The `launch` that functions like w4a16::run_gemm take.
struct Launcher {
  cudaStream_t stream;

  template <class Kernel>
  Status operator()(int blocks, int shared_bytes, const typename Kernel::Params& params) const {
    return launch<Kernel>(blocks, shared_bytes, params, stream);
  }

  // What the copy engine of a Hopper is told of a tensor.
  Status tensor_map(const TensorFacts& facts, TensorMap& map) const;
};

}  // namespace qcore::cuda
