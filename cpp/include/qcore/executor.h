// Where and how a call runs. The caller brings its own thread pool: torch bundles an OpenMP, and a
// second pool in one process would spin against it, so the core never starts threads by itself.
#pragma once

#include <cstdint>

#include "qcore/export.h"
#include "qcore/types.h"

namespace QCORE_API qcore {

struct Parallel {
  using Body = void (*)(void* body_state, int64_t begin, int64_t end);

  // Calls body(body_state, begin, end) on disjoint ranges that cover [0, count), on any threads,
  // and returns when all are done. `grain` is the least sensible range. Null: run on the calling
  // thread.
  void (*run)(void* pool, int64_t count, int64_t grain, Body body, void* body_state) = nullptr;
  void* pool = nullptr;

  template <class F>
  void for_range(int64_t count, int64_t grain, F&& f) const {
    if (count <= 0) return;
    if (!run) return static_cast<void>(f(int64_t{0}, count));
    run(
        pool, count, grain,
        [](void* state, int64_t begin, int64_t end) { (*static_cast<F*>(state))(begin, end); }, &f);
  }
};

// The memory that a call works in, and what works there.
struct Executor {
  Executor() = default;
  Executor(const Parallel& pool) : parallel(pool) {}  // NOLINT: a pool is all the CPU needs
  Executor(int cuda_index, void* cuda_stream)
      : device(Device::cuda), index(cuda_index), stream(cuda_stream) {}

  Device device = Device::cpu;
  Parallel parallel;       // CPU
  int index = 0;           // CUDA: the number of the GPU
  void* stream = nullptr;  // CUDA: a cudaStream_t; calls return before it is done
};

}  // namespace QCORE_API qcore
