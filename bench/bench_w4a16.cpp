// Times every row of op "w4a16" over bits, M, shapes and threads, beside two probes of the same
// machine.
//
//   bench_w4a16 --benchmark_filter='avx512/bits:4' --benchmark_out=w4a16.json
//
// GB/s counts the packed codes, scales and zero points.
#include "cases.h"
#include "common.h"

namespace qcore::bench {
namespace {

using namespace qcore::testing;

// Copies of one packed weight.
class Rotation {
 public:
  Rotation(const Row<W4A16>& row, const ScaledWeight& shape, int64_t m) {
    Rng rng(1);
    const Packed packed = pack(row, random_weight(shape, rng), pool_of(2).parallel());
    const auto size = [](const auto& part) { return static_cast<int64_t>(part.size()); };
    bytes_ = size(packed.qweight) + size(packed.scales) + size(packed.zeros);
    for (int64_t i = copies_for(m, bytes_); i > 0; --i) {
      PackedScaled view = packed.view;
      view.qweight = memory_.copy(packed.qweight.data(), size(packed.qweight));
      view.scales = memory_.copy(packed.scales.data(), size(packed.scales));
      if (view.zeros)
        view.zeros = static_cast<uint8_t*>(memory_.copy(packed.zeros.data(), size(packed.zeros)));
      views_.push_back(view);
    }
  }
  const PackedScaled& next() { return views_[++at_ % views_.size()]; }
  double bytes() const { return static_cast<double>(bytes_); }

 private:
  Memory memory_;
  std::vector<PackedScaled> views_;
  size_t at_ = 0;
  int64_t bytes_ = 0;
};

void time_gemm(benchmark::State& state, const Row<W4A16>& row, const ScaledWeight& shape,
               DType dtype, int64_t m, int threads) {
  Rotation weights(row, shape, m);
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
  set_rates(state, weights.bytes(), 2.0 * static_cast<double>(m * shape.n * shape.k));
}

void register_all() {
  struct Size {
    int64_t n, k;
  };
  for (const int threads : {1, 2}) {
    const std::string suffix = "/threads:" + std::to_string(threads);
    add_probes(threads, {});
    for (const Row<W4A16>* row : runnable_rows<W4A16>()) {
      for (const int bits : {4, 8, 3, 2}) {
        for (const Size size : {Size{4096, 4096}, Size{14336, 4096}, Size{4096, 14336}}) {
          for (const int64_t m : {1, 2, 4, 8, 16, 32, 128, 512}) {
            if (row->isa() == Isa::scalar && m > 1) continue;
            for (const bool zeros : {false, true}) {
              if (zeros && (bits == 3 || size.n != size.k)) continue;
              const ScaledWeight shape{.n = size.n,
                                       .k = size.k,
                                       .group_size = 128,
                                       .elements = unsigned_of(bits).value(),
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
  qcore::bench::register_all();
  return qcore::bench::run(argc, argv);
}
