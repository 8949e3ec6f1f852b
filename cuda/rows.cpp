// The CUDA kernel rows, fastest first.
#include "marlin/rows.h"

#include "device.h"
#include "marlin/plan.h"
#include "registry.h"

namespace qcore {
namespace {

Status takes_every_problem(const Problem& problem) {
  return problem.weight.check();
}

const KernelRow kRows[] = {
    {.name = "w4a16_marlin_sm80",
     .op = "w4a16",
     .isa = Isa::scalar,
     .sm = 80,
     .layout = &marlin::layout,
     .supports = marlin::supports,
     .workspace_bytes = marlin::workspace_bytes,
     .gemm = marlin::gemm},
    {.name = "w4a16_cuda_reference",
     .op = "w4a16",
     .isa = Isa::scalar,
     .sm = 80,
     .layout = &marlin::layout,
     .supports = takes_every_problem,
     .workspace_bytes = nullptr,
     .gemm = marlin::reference_gemm},
};

}  // namespace

std::span<const KernelRow> cuda_rows() {
  return kRows;
}

Status cuda_sm(int index, int& sm) {
  cuda::Properties device;
  Status status = cuda::properties(index, device);
  sm = device.sm;
  return status;
}

}  // namespace qcore
