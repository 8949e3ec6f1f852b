// GPUs as the host sees them: which one a call runs on, what it offers, and errors of the CUDA
// runtime as Status.
#pragma once

#include <cuda_runtime_api.h>

#include "qcore/executor.h"
#include "qcore/status.h"

namespace qcore::cuda {

// Ok, or "<what>: <the runtime's own words>".
Status check(cudaError_t error, const char* what);

// What a GPU offers; read once per GPU.
struct Properties {
  int sm = 0;  // compute capability, 90 for 9.0
  int multiprocessors = 0;
  int shared_bytes = 0;      // the most that one block may have
  int all_shared_bytes = 0;  // of a multiprocessor
};
Status properties(int index, Properties& result);

// Makes the executor's GPU the current one of this thread, and afterwards the old one again.
class Guard {
 public:
  explicit Guard(const Executor& executor);
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
  const Status& status() const { return status_; }

 private:
  int old_ = -1;
  Status status_;
};

}  // namespace qcore::cuda
