#include "common.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "probes.h"

namespace qcore::bench {
namespace {

// Bytes in huge pages where the system has them: the memory at its best. Kept for good.
const char* wide_pages(int64_t bytes) {
  static char* const data = [bytes] {
    void* memory = std::aligned_alloc(size_t{2} << 20, static_cast<size_t>(bytes));
#if defined(__linux__)
    madvise(memory, static_cast<size_t>(bytes), MADV_HUGEPAGE);
#endif
    return static_cast<char*>(std::memset(memory, 1, static_cast<size_t>(bytes)));
  }();
  return data;
}

void probe_memory(benchmark::State& state, int threads) {
  const char* data = wide_pages(kRotate);
  const Isa isa = active_isa();
  constexpr int64_t kChunk = 1 << 20;
  for (auto _ : state) {
    pool_of(threads).parallel().for_range(kRotate / kChunk, 1, [&](int64_t begin, int64_t end) {
      benchmark::DoNotOptimize(read_all(isa, data + begin * kChunk, (end - begin) * kChunk));
    });
  }
  set_rates(state, static_cast<double>(kRotate), 0);
}

// `multiply(isa, rounds, sink)` returns its number of operations.
template <class T>
void probe_multiply(benchmark::State& state, int threads, Isa isa,
                    double (*multiply)(Isa, int64_t, T*)) {
  constexpr int64_t kRounds = 1 << 18, kParts = 8;
  for (auto _ : state) {
    pool_of(threads).parallel().for_range(kParts, 1, [&](int64_t begin, int64_t end) {
      T sink = 1;
      for (; begin < end; ++begin) multiply(isa, kRounds, &sink);
      benchmark::DoNotOptimize(sink);
    });
  }
  T sink = 1;
  set_rates(state, 0, kParts * multiply(isa, kRounds, &sink));
  benchmark::DoNotOptimize(sink);
}

}  // namespace

testing::ThreadPool& pool_of(int threads) {
  static testing::ThreadPool one(1), two(2);
  static const bool pinned = (two.pin(), true);
  static_cast<void>(pinned);
  return threads == 1 ? one : two;
}

void set_rates(benchmark::State& state, double bytes, double flop) {
  using benchmark::Counter;
  const auto flags = Counter::kIsIterationInvariantRate;
  if (bytes > 0) state.counters["GB/s"] = Counter(bytes * 1e-9, flags);
  if (flop > 0) state.counters["GFLOP/s"] = Counter(flop * 1e-9, flags);
}

void add_probes(int threads, const std::vector<Isa>& isas) {
  const std::string suffix = "/threads:" + std::to_string(threads);
  add("probe/memory" + suffix, [=](benchmark::State& s) { probe_memory(s, threads); });
  add("probe/fma" + suffix,
      [=](benchmark::State& s) { probe_multiply<float>(s, threads, active_isa(), &multiply_add); });
  for (const Isa isa : isas) {
    add(std::string("probe/int8/") + name(isa) + suffix,
        [=](benchmark::State& s) { probe_multiply<int32_t>(s, threads, isa, &multiply_int8); });
  }
}

int run(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace qcore::bench
