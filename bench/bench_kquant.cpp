// Times every row of op "kquant" over block formats, M, shapes and threads, beside probes of the
// same machine: reading memory, and dot products of bytes by the instruction set of each row.
//
//   bench_kquant --benchmark_filter='probe|avx512/Q4_K/.*n:4096' --benchmark_out=kquant.json
//
// GB/s counts the bytes of the packed blocks. x is float32. Encoding and decoding run on one
// thread.
#include "cases.h"
#include "common.h"

namespace qcore::bench {
namespace {

using namespace qcore::testing;

constexpr int64_t kRows = 256;  // of a weight that differ; the others repeat them

std::vector<float> gaussian(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = normal(rng);
  return values;
}

std::vector<char> random_blocks(const BlockShape& shape) {
  const BlockFormat& format = *shape.format;
  const int64_t row = shape.k / format.elements * format.bytes;
  std::vector<char> blocks(static_cast<size_t>(shape.n * row));
  const std::vector<float> w = gaussian(std::min(kRows, shape.n) * shape.k, 1);
  const Status status = encode_blocks(format, DType::f32, w.data(), std::min(kRows, shape.n),
                                      shape.k, nullptr, blocks.data(), pool_of(2).parallel());
  if (!status.ok()) std::abort();
  for (int64_t n = kRows; n < shape.n; ++n)
    std::memcpy(blocks.data() + n * row, blocks.data() + n % kRows * row, static_cast<size_t>(row));
  return blocks;
}

// Copies of one packed weight.
class Rotation {
 public:
  Rotation(const BlockLayout& layout, const BlockShape& shape, int64_t m) {
    bytes_ = layout.packed_bytes(shape);
    std::vector<char> packed(static_cast<size_t>(bytes_));
    const Status status =
        pack(layout, shape, random_blocks(shape).data(), packed.data(), pool_of(2).parallel());
    if (!status.ok()) std::abort();
    for (int64_t i = copies_for(m, bytes_); i > 0; --i)
      views_.push_back({shape, layout.number, memory_.copy(packed.data(), bytes_)});
  }
  const PackedBlocks& next() { return views_[++at_ % views_.size()]; }
  double bytes() const { return static_cast<double>(bytes_); }

 private:
  Memory memory_;
  std::vector<PackedBlocks> views_;
  size_t at_ = 0;
  int64_t bytes_ = 0;
};

void time_gemm(benchmark::State& state, const Row<Kquant>& row, const BlockShape& shape, int64_t m,
               int threads, bool float_activations) {
  Rotation weights(row.weight_layout(), shape, m);
  const std::vector<float> x = gaussian(m * shape.k, 2);
  std::vector<float> y(static_cast<size_t>(m * shape.n));
  KquantArgs args{.m = m,
                  .dtype = DType::f32,
                  .x = x.data(),
                  .x_stride = shape.k,
                  .y = y.data(),
                  .float_activations = float_activations};
  const Parallel parallel = pool_of(threads).parallel();
  for (auto _ : state) {
    args.weight = weights.next();
    const Status status = row.run(args, parallel);
    if (!status.ok()) return state.SkipWithError(status.message().c_str());
  }
  set_rates(state, weights.bytes(), 2.0 * static_cast<double>(m * shape.n * shape.k));
}

enum class Codec { encode, encode_weighted, decode };

void time_codec(benchmark::State& state, const BlockFormat& format, Codec what) {
  constexpr int64_t kCodedRows = 64, kK = 4096;
  const std::vector<float> w = gaussian(kCodedRows * kK, 3);
  std::vector<float> importance = gaussian(kK, 4), out(w.size());
  for (float& h : importance) h *= h;
  const int64_t count = kCodedRows * kK / format.elements;
  std::vector<char> blocks(static_cast<size_t>(count * format.bytes));
  const float* h = what == Codec::encode_weighted ? importance.data() : nullptr;
  const auto encode = [&] {
    return encode_blocks(format, DType::f32, w.data(), kCodedRows, kK, h, blocks.data(), {});
  };
  Status status = encode();
  for (auto _ : state) {
    status = what == Codec::decode
                 ? decode_blocks(format, blocks.data(), count, DType::f32, out.data(), Parallel{})
                 : encode();
    if (!status.ok()) return state.SkipWithError(status.message().c_str());
    benchmark::DoNotOptimize(blocks.data());
    benchmark::DoNotOptimize(out.data());
  }
  state.counters["weights/s"] = benchmark::Counter(static_cast<double>(w.size()),
                                                   benchmark::Counter::kIsIterationInvariantRate);
}

void add_gemms(const Row<Kquant>& row, int threads) {
  for (const BlockFormat& format : block_formats()) {
    for (const int64_t n : {4096, 14336}) {
      for (const int64_t m : {1, 4, 8, 16, 32, 128, 512}) {
        if (row.isa() == Isa::scalar && (m > 1 || n > 4096)) continue;
        const BlockShape shape{&format, n, 4096};
        const std::string title = std::string(row.name) + "/" + format.name +
                                  "/n:" + std::to_string(n) + "/k:4096/m:" + std::to_string(m);
        const std::string suffix = "/threads:" + std::to_string(threads);
        add(title + suffix,
            [=, &row](benchmark::State& s) { time_gemm(s, row, shape, m, threads, false); });
        if (n > 4096 || (m != 1 && m != 128)) continue;
        add(title + "/float_x" + suffix,
            [=, &row](benchmark::State& s) { time_gemm(s, row, shape, m, threads, true); });
      }
    }
  }
}

void register_all() {
  std::vector<Isa> isas;
  for (const Row<Kquant>* row : runnable_rows<Kquant>()) isas.push_back(row->isa());
  for (const int threads : {1, 2}) {
    add_probes(threads, isas);
    for (const Row<Kquant>* row : runnable_rows<Kquant>()) add_gemms(*row, threads);
  }
  for (const BlockFormat& format : block_formats()) {
    const auto codec = [&format](const char* title, Codec what) {
      add(std::string(title) + format.name,
          [&format, what](benchmark::State& s) { time_codec(s, format, what); });
    };
    codec("encode/", Codec::encode);
    codec("encode_weighted/", Codec::encode_weighted);
    codec("decode/", Codec::decode);
  }
}

}  // namespace
}  // namespace qcore::bench

int main(int argc, char** argv) {
  qcore::bench::register_all();
  return qcore::bench::run(argc, argv);
}
