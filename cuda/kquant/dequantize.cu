#include <string>

#include "device.h"
#include "kquant/run.h"
#include "launch.cuh"

namespace qcore::kquant {
namespace {

Status check_aligned(const char* argument, const void* pointer) {
  if (reinterpret_cast<uintptr_t>(pointer) % 16 == 0) return {};
  return Status::invalid(std::string(argument) + ": expected 16-byte aligned memory");
}

}  // namespace

Status dequantize(const BlockFormat& format, const DequantizeParams& params,
                  const Executor& executor) {
  for (const Status& status :
       {check_aligned("blocks", params.blocks), check_aligned("out", params.out)}) {
    if (!status.ok()) return status;
  }
  const cuda::Guard guard(executor);
  if (!guard.status().ok()) return guard.status();
  return run_dequantize(format, params, cuda::Launcher{static_cast<cudaStream_t>(executor.stream)});
}

}  // namespace qcore::kquant
