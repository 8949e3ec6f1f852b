// Where a call runs, taken from its tensors: torch's threads on the CPU, torch's current stream on
// a GPU.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <optional>

#include "tensors.h"

namespace qcore::binding {

// While it lives the GPU of `tensor` is the current one, if it is on any. Throws if this build or
// this torch cannot run anything there.
class Place {
 public:
  Place(const char* op, const Tensor& tensor);

  const Executor& executor() const { return executor_; }

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
  Executor executor_;
};

}  // namespace qcore::binding
