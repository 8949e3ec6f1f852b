#include "executor.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>

namespace qcore::binding {
namespace {

// Torch's pool gives every thread one equal range and waits for the slowest. Here threads come back
// for another one, so that a core which is slower, or was taken away for a while, does less.
constexpr int64_t kRangesPerThread = 8;

void run_on_torch_threads(void*, int64_t count, int64_t grain, Parallel::Body body, void* state) {
  grain = std::max<int64_t>(1, grain);
  const int64_t threads =
      std::min<int64_t>(torch::stable::get_num_threads(), ceil_div(count, grain));
  if (threads <= 1) return body(state, 0, count);
  const int64_t range = std::max(grain, ceil_div(count, threads * kRangesPerThread));
  std::atomic<int64_t> next = 0;
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (;;) {
      const int64_t begin = next.fetch_add(range, std::memory_order_relaxed);
      if (begin >= count) return;
      body(state, begin, std::min(count, begin + range));
    }
  });
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
