#include "executor.h"

#include <dlfcn.h>

#include <algorithm>

namespace qcore::binding {
namespace {

void run_on_torch_threads(void*, int64_t count, int64_t grain, Parallel::Body body, void* state) {
  torch::stable::parallel_for(
      0, count, grain, [body, state](int64_t begin, int64_t end) { body(state, begin, end); });
}

bool has_cuda_kernels() {
  return std::ranges::any_of(kernels(),
                             [](const KernelRow* row) { return row->device == Device::cuda; });
}

// Only CUDA builds of torch export this C function, from a library that they load with local
// visibility. To link it would tie the extension to those builds; libtorch_cpu has nothing that
// serves before torch 2.13 (a stream's id is not its cudaStream_t).
using CurrentStream = AOTITorchError (*)(int32_t device_index, void** stream);

CurrentStream find_current_stream() {
  void* const library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
  return library
             ? reinterpret_cast<CurrentStream>(dlsym(library, "aoti_torch_get_current_cuda_stream"))
             : nullptr;
}

Executor current_stream(const char* op, int32_t index) {
  static const CurrentStream function = find_current_stream();
  check(function != nullptr, op,
        "this torch does not tell its current CUDA stream: expected a CUDA build of torch 2.10 or "
        "later, whose libtorch_cuda.so exports aoti_torch_get_current_cuda_stream");
  void* stream = nullptr;
  check(function(index, &stream) == AOTI_TORCH_SUCCESS, op,
        "torch failed to tell the current stream of cuda:", index);
  return {index, stream};
}

}  // namespace

Place::Place(const char* op, const Tensor& tensor) {
  if (!tensor.is_cuda()) {
    executor_ = Parallel{.run = run_on_torch_threads};
    return;
  }
  check(
      has_cuda_kernels(), op,
      "this build of qcore has no CUDA kernels, and the tensors are on cuda: install a build with "
      "CUDA (nvcc 12.8 or later, QCORE_CUDA=ON), or move them to cpu");
  const int32_t index = tensor.get_device_index();
  guard_.emplace(index);
  executor_ = current_stream(op, index);
}

}  // namespace qcore::binding
