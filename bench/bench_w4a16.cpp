// Times every row of op "w4a16" over bits, M, shapes and threads, beside two probes of the same
// machine.
//
//   bench_w4a16 --benchmark_filter='avx512/bits:4' --benchmark_out=w4a16.json
//
// With few rows of x the time is that of reading the weights, so they rotate over more memory than
// any cache holds, as the layers of a model do. GB/s counts the packed codes, scales and zero
// points.
#include <benchmark/benchmark.h>

#include <memory>

#include "cases.h"
#include "probes.h"
#include "thread_pool.h"

namespace qcore::bench {
namespace {

using namespace qcore::testing;

constexpr int64_t kRotate = int64_t{256} << 20;  // bytes

ThreadPool& pool_of(int threads) {
  static ThreadPool one(1), two(2);
  static const bool pinned = (two.pin(), true);
  static_cast<void>(pinned);
  return threads == 1 ? one : two;
}

// 64-byte aligned copies of one packed weight.
class Rotation {
 public:
  Rotation(const Row<W4A16>& row, const IntGroup& shape, int64_t total) {
    Rng rng(1);
    const Packed packed = pack(row, random_weight(shape, rng), pool_of(2).parallel());
    const int64_t bytes = bytes_of(packed);
    const int64_t copies = std::max<int64_t>(1, ceil_div(total, bytes));
    for (int64_t i = 0; i < copies; ++i) {
      PackedIntGroup view = packed.view;
      view.qweight = copy(packed.qweight.data(), packed.qweight.size());
      view.scales = copy(packed.scales.data(), packed.scales.size());
      if (view.zeros)
        view.zeros = static_cast<uint8_t*>(copy(packed.zeros.data(), packed.zeros.size()));
      views_.push_back(view);
    }
    bytes_ = static_cast<double>(bytes);
  }
  const PackedIntGroup& next() { return views_[++at_ % views_.size()]; }
  double bytes() const { return bytes_; }

 private:
  static int64_t bytes_of(const Packed& p) {
    return static_cast<int64_t>(p.qweight.size() + p.scales.size() + p.zeros.size());
  }
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  void* copy(const void* from, size_t bytes) {
    memory_.emplace_back(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
    return std::memcpy(memory_.back().get(), from, bytes);
  }

  std::vector<std::unique_ptr<void, Free>> memory_;
  std::vector<PackedIntGroup> views_;
  size_t at_ = 0;
  double bytes_ = 0;
};

void time_gemm(benchmark::State& state, const Row<W4A16>& row, const IntGroup& shape, DType dtype,
               int64_t m, int threads) {
  Rotation weights(row, shape, m <= 32 ? kRotate : 0);
  Rng rng(2);
  std::normal_distribution<float> normal;
  Buffer x(dtype, m * shape.k), y(dtype, m * shape.n);
  for (int64_t i = 0; i < m * shape.k; ++i) x.set(i, normal(rng));
  W4A16Args args{.m = m, .dtype = dtype, .x = x.data(), .x_stride = shape.k, .y = y.data()};
  const Parallel parallel = pool_of(threads).parallel();
  for (auto _ : state) {
    args.weight = weights.next();
    const Status status = row.run(args, parallel);
    if (!status.ok()) return state.SkipWithError(status.message().c_str());
  }
  using benchmark::Counter;
  const double flop = 2.0 * static_cast<double>(m * shape.n * shape.k);
  state.counters["GB/s"] = Counter(weights.bytes() * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["GFLOP/s"] = Counter(flop * 1e-9, Counter::kIsIterationInvariantRate);
}

void probe_memory(benchmark::State& state, int threads) {
  std::vector<uint64_t> data(static_cast<size_t>(kRotate) / 8, 1);
  const Isa isa = active_isa();
  constexpr int64_t kChunk = 1 << 20;
  for (auto _ : state) {
    pool_of(threads).parallel().for_range(kRotate / kChunk, 1, [&](int64_t begin, int64_t end) {
      const char* from = reinterpret_cast<const char*>(data.data()) + begin * kChunk;
      benchmark::DoNotOptimize(read_all(isa, from, (end - begin) * kChunk));
    });
  }
  state.counters["GB/s"] = benchmark::Counter(static_cast<double>(kRotate) * 1e-9,
                                              benchmark::Counter::kIsIterationInvariantRate);
}

void probe_fma(benchmark::State& state, int threads) {
  const Isa isa = active_isa();
  constexpr int64_t kRounds = 1 << 18;
  double flop = 0;
  for (auto _ : state) {
    pool_of(threads).parallel().for_range(8, 1, [&](int64_t begin, int64_t end) {
      float sink = 1;
      for (; begin < end; ++begin) multiply_add(isa, kRounds, &sink);
      benchmark::DoNotOptimize(sink);
    });
  }
  float sink = 1;
  flop = 8 * multiply_add(isa, kRounds, &sink);
  benchmark::DoNotOptimize(sink);
  state.counters["GFLOP/s"] =
      benchmark::Counter(flop * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void register_all() {
  struct Size {
    int64_t n, k;
  };
  const auto add = [](const std::string& title, auto&& body) {
    benchmark::RegisterBenchmark(title.c_str(), body)->UseRealTime()->Unit(benchmark::kMicrosecond);
  };
  for (const int threads : {1, 2}) {
    const std::string suffix = "/threads:" + std::to_string(threads);
    add("probe/memory" + suffix, [=](benchmark::State& s) { probe_memory(s, threads); });
    add("probe/fma" + suffix, [=](benchmark::State& s) { probe_fma(s, threads); });
    for (const Row<W4A16>* row : runnable_rows<W4A16>()) {
      for (const int bits : {4, 8, 3, 2}) {
        for (const Size size : {Size{4096, 4096}, Size{14336, 4096}, Size{4096, 14336}}) {
          for (const int64_t m : {1, 2, 4, 8, 16, 32, 128, 512}) {
            if (row->isa == Isa::scalar && m > 1) continue;
            for (const bool zeros : {false, true}) {
              if (zeros && (bits == 3 || size.n != size.k)) continue;
              const IntGroup shape{.n = size.n,
                                   .k = size.k,
                                   .group_size = 128,
                                   .bits = bits,
                                   .has_zeros = zeros,
                                   .scale_dtype = DType::bf16};
              add(std::string(row->name) + "/bits:" + std::to_string(bits) +
                      (zeros ? "/zeros" : "") + "/n:" + std::to_string(size.n) +
                      "/k:" + std::to_string(size.k) + "/m:" + std::to_string(m) + suffix,
                  [=](benchmark::State& s) { time_gemm(s, *row, shape, DType::bf16, m, threads); });
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace qcore::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  qcore::bench::register_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
