// What every microbenchmark shares: threads, weights that rotate, rates, probes of the machine.
#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "qcore/qcore.h"
#include "thread_pool.h"

namespace qcore::bench {

// With few rows of x the time is that of reading the weights, so these rotate over more memory than
// any cache holds, as the layers of a model do.
inline constexpr int64_t kRotate = int64_t{256} << 20;  // bytes
inline constexpr int64_t kRotatedRows = 32;

// One or two threads, tied to processors.
testing::ThreadPool& pool_of(int threads);

// How many copies of a weight of `bytes` to rotate for M rows of x.
inline int64_t copies_for(int64_t m, int64_t bytes) {
  return m <= kRotatedRows ? ceil_div(kRotate, bytes) : 1;
}

// Copies of bytes, each in memory of its own, aligned to cache lines.
class Memory {
 public:
  void* copy(const void* from, int64_t bytes) {
    const size_t size = static_cast<size_t>(bytes);
    held_.emplace_back(std::aligned_alloc(64, (size + 63) / 64 * 64));
    return std::memcpy(held_.back().get(), from, size);
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::vector<std::unique_ptr<void, Free>> held_;
};

// Counters of a benchmark: bytes of the weight and flops of one iteration.
void set_rates(benchmark::State& state, double bytes, double flop);

template <class Body>
void add(const std::string& title, Body&& body) {
  benchmark::RegisterBenchmark(title.c_str(), body)->UseRealTime()->Unit(benchmark::kMicrosecond);
}

// Reading memory, fp32 multiply-adds, and dot products of bytes by each of `isas`.
void add_probes(int threads, const std::vector<Isa>& isas);

// Runs what was added. The result is that of main().
int run(int argc, char** argv);

}  // namespace qcore::bench
