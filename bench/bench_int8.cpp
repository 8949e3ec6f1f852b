// Times every row of ops "int8" and "fp8" and of their quantizers, beside probes of the same
// machine: reading memory, and dot products of bytes by the instruction set of each row.
//
//   bench_int8 --benchmark_filter='probe|int8_avx512/.*m:16/' --benchmark_out=int8.json
//
// GB/s counts the bytes of the weight, or of the floats that a quantizer reads. GFLOP/s counts two
// operations for each product.
#include "cases.h"
#include "common.h"

namespace qcore::bench {
namespace {

using namespace qcore::testing;

constexpr int64_t kN = 4096, kK = 4096;

std::vector<uint8_t> random_bytes(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  // 0x7f and 0xff would be NaN in e4m3.
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(rng() & 0xf7);
  return bytes;
}

// Copies of one weight.
class Rotation {
 public:
  explicit Rotation(int64_t m) {
    const std::vector<uint8_t> weight = random_bytes(kN * kK, 1);
    for (int64_t i = copies_for(m, kN * kK); i > 0; --i) {
      copies_.push_back(memory_.copy(weight.data(), kN * kK));
    }
  }
  template <class T>
  const T* next() {
    return static_cast<const T*>(copies_[++at_ % copies_.size()]);
  }

 private:
  Memory memory_;
  std::vector<void*> copies_;
  size_t at_ = 0;
};

void time_int8(benchmark::State& state, const Row<Int8>& row, int64_t m, int threads) {
  Rotation weights(m);
  const std::vector<uint8_t> x = random_bytes(m * kK, 2);
  const std::vector<float> scales(static_cast<size_t>(std::max(m, kN)), 0.01f);
  const std::vector<int32_t> sums(static_cast<size_t>(kN));
  std::vector<float> y(static_cast<size_t>(m * kN));
  Int8Args args;
  args.m = m, args.n = kN, args.k = kK;
  args.x = reinterpret_cast<const int8_t*>(x.data());
  args.x_stride = kK;
  args.x_scale = args.w_scale = scales.data();
  args.w_sum = sums.data();
  args.y = y.data();
  for (auto _ : state) {
    args.weight = weights.next<int8_t>();
    const Status status = row.run(args, pool_of(threads).parallel());
    if (!status.ok()) return state.SkipWithError(status.message().c_str());
  }
  set_rates(state, kN * kK, 2.0 * static_cast<double>(m * kN * kK));
}

void time_fp8(benchmark::State& state, const Row<Fp8>& row, int64_t m, int threads, bool blocks) {
  Rotation weights(m);
  const std::vector<uint8_t> x = random_bytes(m * kK, 2);
  const std::vector<float> scales(static_cast<size_t>(std::max(m, kN) * kK / kScaleBlock), 0.01f);
  std::vector<float> y(static_cast<size_t>(m * kN));
  Fp8Args args;
  args.m = m, args.n = kN, args.k = kK;
  args.x = x.data();
  args.x_stride = kK;
  args.x_scale = args.w_scale = scales.data();
  if (blocks) args.x_scales = args.w_scales = Granularity::block;
  args.y = y.data();
  for (auto _ : state) {
    args.weight = weights.next<uint8_t>();
    const Status status = row.run(args, pool_of(threads).parallel());
    if (!status.ok()) return state.SkipWithError(status.message().c_str());
  }
  set_rates(state, kN * kK, 2.0 * static_cast<double>(m * kN * kK));
}

template <class Op>
void time_quantizer(benchmark::State& state, const Row<Op>& row, int64_t m, int threads) {
  const std::vector<float> x(static_cast<size_t>(m * kK), 0.7f);
  std::vector<uint8_t> q(x.size());
  std::vector<float> scales(static_cast<size_t>(m));
  typename Op::Args args;
  args.x = {.m = m, .k = kK, .x = x.data(), .stride = kK};
  args.q = reinterpret_cast<decltype(args.q)>(q.data());
  args.scale = scales.data();
  for (auto _ : state) {
    const Status status = row.run(args, pool_of(threads).parallel());
    if (!status.ok()) return state.SkipWithError(status.message().c_str());
  }
  set_rates(state, static_cast<double>(m * kK * 4), 0);
}

std::string title(const KernelRow& row, const char* kind, int64_t m, int threads) {
  return std::string(row.name) + kind + "/m:" + std::to_string(m) +
         "/threads:" + std::to_string(threads);
}

template <class Op>
void add_quantizers(int threads) {
  for (const Row<Op>* row : runnable_rows<Op>()) {
    for (const int64_t m : {1, 128, 4096}) {
      if (row->isa() == Isa::scalar && m > 128) continue;
      add(title(*row, "", m, threads),
          [=](benchmark::State& s) { time_quantizer<Op>(s, *row, m, threads); });
    }
  }
}

void register_all() {
  std::vector<Isa> isas;
  for (const Row<Int8>* row : runnable_rows<Int8>()) isas.push_back(row->isa());
  for (const int threads : {1, 2}) {
    add_probes(threads, isas);
    for (const int64_t m : {1, 4, 16, 32, 128, 512}) {
      for (const Row<Int8>* row : runnable_rows<Int8>()) {
        if (row->isa() == Isa::scalar && m > 1) continue;
        add(title(*row, "", m, threads),
            [=](benchmark::State& s) { time_int8(s, *row, m, threads); });
      }
      for (const Row<Fp8>* row : runnable_rows<Fp8>()) {
        if (row->isa() == Isa::scalar && m > 1) continue;
        for (const bool blocks : {false, true}) {
          add(title(*row, blocks ? "/block" : "/row", m, threads),
              [=](benchmark::State& s) { time_fp8(s, *row, m, threads, blocks); });
        }
      }
    }
    add_quantizers<QuantizeInt8>(threads);
    add_quantizers<QuantizeFp8>(threads);
  }
}

}  // namespace
}  // namespace qcore::bench

int main(int argc, char** argv) {
  qcore::bench::register_all();
  return qcore::bench::run(argc, argv);
}
