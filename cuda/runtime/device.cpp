#include "runtime/device.h"

#include <mutex>
#include <string>
#include <vector>

namespace qcore::cuda {

Status check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return {};
  const StatusCode code =
      error == cudaErrorMemoryAllocation ? StatusCode::out_of_memory : StatusCode::device_error;
  return {code, std::string(what) + ": CUDA says " + cudaGetErrorName(error) + ", " +
                    cudaGetErrorString(error)};
}

Status properties(int index, Properties& result) {
  static std::mutex mutex;
  static std::vector<Properties> known;
  const std::lock_guard lock(mutex);
  if (index < 0) return Status::invalid("device: expected 0 or more, got " + std::to_string(index));
  if (static_cast<size_t>(index) >= known.size()) known.resize(static_cast<size_t>(index) + 1);
  Properties& p = known[static_cast<size_t>(index)];
  if (p.sm == 0) {
    int major = 0, minor = 0;
    const auto read = [index](int& value, cudaDeviceAttr attribute) {
      return check(cudaDeviceGetAttribute(&value, attribute, index), "device");
    };
    for (const Status& status :
         {read(major, cudaDevAttrComputeCapabilityMajor),
          read(minor, cudaDevAttrComputeCapabilityMinor),
          read(p.multiprocessors, cudaDevAttrMultiProcessorCount),
          read(p.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin),
          read(p.all_shared_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor)}) {
      if (!status.ok()) return status;
    }
    p.sm = major * 10 + minor;
  }
  result = p;
  return {};
}

Guard::Guard(const Executor& executor) {
  int current = 0;
  status_ = check(cudaGetDevice(&current), "device");
  if (!status_.ok() || current == executor.index) return;
  status_ = check(cudaSetDevice(executor.index), "device");
  if (status_.ok()) old_ = current;
}

Guard::~Guard() {
  if (old_ >= 0) static_cast<void>(cudaSetDevice(old_));
}

}  // namespace qcore::cuda
