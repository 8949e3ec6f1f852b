// A small pool behind qcore::Parallel, for tests and benches; the core never starts threads itself.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

#include "qcore/executor.h"

namespace qcore::testing {

// Threads take ranges of `grain` or more from a shared counter, so which thread computes what
// differs from run to run. The caller works too. One loop at a time.
class ThreadPool {
 public:
  explicit ThreadPool(int threads) : threads_(threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() {
    stop_ = true;
    round_.fetch_add(1);
    round_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  // Ties the caller and the workers to one processor each: a scheduler may leave a woken worker on
  // the caller's processor for milliseconds, longer than a whole gemm. For benches.
  void pin() {
#if defined(__linux__)
    pin_to(pthread_self(), 0);
    for (size_t i = 0; i < workers_.size(); ++i) pin_to(workers_[i].native_handle(), i + 1);
#endif
  }

  Parallel parallel() { return {.run = &run, .pool = this}; }

 private:
#if defined(__linux__)
  static void pin_to(pthread_t thread, size_t processor) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    pthread_setaffinity_np(thread, sizeof set, &set);
  }
#endif

  static constexpr int kChunksPerThread = 4;  // small enough to even out a thread that came late

  static void run(void* pool, int64_t count, int64_t grain, Parallel::Body body, void* state) {
    auto& self = *static_cast<ThreadPool*>(pool);
    if (self.workers_.empty() || count <= grain) return body(state, 0, count);
    self.body_ = body;
    self.state_ = state;
    self.count_ = count;
    self.chunk_ = ceil_div(count, int64_t{self.threads_} * kChunksPerThread);
    if (self.chunk_ < grain) self.chunk_ = grain;
    self.next_ = 0;
    self.busy_ = static_cast<int>(self.workers_.size());
    self.round_.fetch_add(1);
    self.round_.notify_all();
    self.take_chunks();
    while (self.busy_.load() != 0) {
    }
  }

  static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

  void take_chunks() {
    for (;;) {
      const int64_t begin = next_.fetch_add(chunk_);
      if (begin >= count_) return;
      body_(state_, begin, begin + chunk_ < count_ ? begin + chunk_ : count_);
    }
  }

  void work() {
    constexpr int kSpins = 20000;  // a gemm calls twice in a row; sleeping between would cost more
    uint64_t seen = 0;
    for (;;) {
      for (int i = 0; i < kSpins && round_.load() == seen; ++i) {
      }
      round_.wait(seen);
      seen = round_.load();
      if (stop_) return;
      take_chunks();
      busy_.fetch_sub(1);
    }
  }

  const int threads_;
  std::vector<std::thread> workers_;
  std::atomic<uint64_t> round_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
  std::atomic<bool> stop_{false};
  Parallel::Body body_ = nullptr;
  void* state_ = nullptr;
  int64_t count_ = 0, chunk_ = 1;
};

}  // namespace qcore::testing
