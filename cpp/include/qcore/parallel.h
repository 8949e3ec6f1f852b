// How the core runs loops on several threads: the caller brings its own pool. torch bundles an
// OpenMP; a second pool in one process would spin against it, so the core never starts threads by
// itself.
#pragma once

#include <cstdint>

namespace qcore {

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

}  // namespace qcore
