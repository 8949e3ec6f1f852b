// Times weights [E, N, K] of experts through every row of ops "w4a16", "kquant" and "int8": tokens
// that choose 4 of 32 experts each, beside
//   dense  a dense weight of as many bytes as the chosen experts have, for as many rows of x as one
//          of them gets
//   calls  a dense call for each chosen expert, one after the other
//
//   bench_experts --benchmark_filter='avx512.*/tokens:1/'
//
// GB/s counts the bytes of the weights that are read.
#include <algorithm>
#include <numeric>

#include "cases.h"
#include "common.h"

namespace qcore::bench {
namespace {

using namespace qcore::testing;

constexpr int64_t kExperts = 32, kTop = 4, kN = 2048, kK = 1024;

enum class Way { experts, dense, calls };
constexpr const char* kWays[] = {"experts", "dense", "calls"};

// Which rows each expert has, for as many calls as give all experts a turn.
std::vector<std::vector<int32_t>> choices(int64_t tokens) {
  Rng rng(1);
  std::vector<std::vector<int32_t>> all;
  std::vector<size_t> order(kExperts);
  std::iota(order.begin(), order.end(), size_t{0});
  for (int64_t i = 0; i < kExperts; ++i) {
    std::vector<int32_t> offsets(kExperts + 1);
    for (int64_t t = 0; t < tokens; ++t) {
      std::shuffle(order.begin(), order.end(), rng);
      for (size_t top = 0; top < kTop; ++top) ++offsets[order[top] + 1];
    }
    std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
    all.push_back(std::move(offsets));
  }
  return all;
}

int64_t used(const std::vector<int32_t>& offsets) {
  int64_t count = 0;
  for (size_t e = 0; e < kExperts; ++e) count += offsets[e] < offsets[e + 1];
  return count;
}

// One op: how its arguments name the weight. `bytes` are those of one expert; the experts of the
// memory that rotates are all the same bytes.
struct OfW4A16 {
  using Op = W4A16;
  static constexpr const char* kTitle = "/4_bits";

  explicit OfW4A16(const Row<W4A16>& row) : layout(row.weight_layout()) {
    shape = {
        .n = kN, .k = kK, .group_size = 128, .elements = Elements::u4, .scale_dtype = DType::bf16};
    Rng rng(2);
    one = pack(row, random_weight(shape, rng));
    bytes = static_cast<int64_t>(one.qweight.size());
    x = Buffer(DType::bf16, kK);
  }
  const void* data() const { return one.qweight.data(); }
  W4A16Args args(const void* weight, int64_t experts, int64_t n) {
    ScaledWeight all = shape;
    all.experts = experts;
    all.n = n;
    scales.resize(static_cast<size_t>(packed_sizes(layout, all).scales * 2), char{0x3c});
    W4A16Args a{.dtype = DType::bf16, .x = x.data()};  // x_stride 0: all rows are one
    a.weight = {all, layout.number, weight, scales.data(), nullptr};
    return a;
  }

  const ScaledLayout& layout;
  ScaledWeight shape;
  Packed one;
  Buffer x;
  std::vector<char> scales;
  int64_t bytes;
};

struct OfKquant {
  using Op = Kquant;
  static constexpr const char* kTitle = "/Q4_K";

  explicit OfKquant(const Row<Kquant>& row)
      : layout(row.weight_layout()), shape{find_block_format("Q4_K"), kN, kK, kExperts} {
    bytes = expert_bytes(layout, shape);
    one.resize(static_cast<size_t>(bytes));
    x.assign(kK, 0.5f);
  }
  const void* data() const { return one.data(); }
  KquantArgs args(const void* weight, int64_t experts, int64_t n) {
    KquantArgs a{.dtype = DType::f32, .x = x.data()};
    a.weight = {{shape.format, n, kK, experts}, layout.number, weight};
    return a;
  }

  const BlockLayout& layout;
  BlockShape shape;
  std::vector<char> one;
  std::vector<float> x;
  int64_t bytes;
};

struct OfInt8 {
  using Op = Int8;
  static constexpr const char* kTitle = "";

  explicit OfInt8(const Row<Int8>&) : one(static_cast<size_t>(kN * kK), int8_t{3}) {
    x.assign(kK, int8_t{5});
    scales.assign(static_cast<size_t>(kExperts * kN), 0.01f);
    sums.assign(scales.size(), 0);
  }
  const void* data() const { return one.data(); }
  Int8Args args(const void* weight, int64_t experts, int64_t n) const {
    Int8Args a;
    a.n = n, a.k = kK, a.experts = experts;
    a.x = x.data();
    a.weight = static_cast<const int8_t*>(weight);
    a.x_scale = a.w_scale = scales.data();
    a.x_scales = Granularity::tensor;
    a.w_sum = sums.data();
    return a;
  }

  std::vector<int8_t> one, x;
  std::vector<float> scales;
  std::vector<int32_t> sums;
  int64_t bytes = kN * kK;
};

template <class Of>
void time_experts(benchmark::State& state, const Row<typename Of::Op>& row, Way way, int64_t tokens,
                  int threads) {
  Of op(row);
  std::vector<char> experts(static_cast<size_t>(kExperts * op.bytes));
  for (int64_t e = 0; e < kExperts; ++e) {
    std::memcpy(experts.data() + e * op.bytes, op.data(), static_cast<size_t>(op.bytes));
  }
  Memory memory;
  std::vector<const char*> copies;
  const int64_t size = kExperts * op.bytes;
  for (int64_t i = copies_for(1, size); i > 0; --i) {
    copies.push_back(static_cast<const char*>(memory.copy(experts.data(), size)));
  }
  const auto all = choices(tokens);
  const int64_t active = used(all.front());
  std::vector<float> y(static_cast<size_t>(std::max(tokens, kTop) * kExperts * kN));
  const Parallel parallel = pool_of(threads).parallel();
  size_t turn = 0, dense_at = 0;
  double bytes = 0;
  Status status;
  for (auto _ : state) {
    const std::vector<int32_t>& offsets = all[++turn % all.size()];
    const char* weight = copies[turn % copies.size()];
    if (way == Way::experts) {
      auto args = op.args(weight, kExperts, kN);
      args.m = offsets.back();
      args.offsets = offsets.data();
      args.y = y.data();
      status = row.run(args, parallel);
      bytes += static_cast<double>(used(offsets) * op.bytes);
    } else if (way == Way::calls) {
      for (size_t e = 0; e < kExperts; ++e) {
        if (offsets[e] == offsets[e + 1]) continue;
        auto args = op.args(weight + static_cast<int64_t>(e) * op.bytes, 1, kN);
        args.m = offsets[e + 1] - offsets[e];
        args.y = y.data();
        status = row.run(args, parallel);
        bytes += static_cast<double>(op.bytes);
      }
    } else {
      const size_t parts = static_cast<size_t>(kExperts / active);
      weight += static_cast<int64_t>(++dense_at % parts) * active * op.bytes;
      auto args = op.args(weight, 1, active * kN);
      args.m = ceil_div(tokens * kTop, active);
      args.y = y.data();
      status = row.run(args, parallel);
      bytes += static_cast<double>(active * op.bytes);
    }
    if (!status.ok()) return state.SkipWithError(status.message().c_str());
  }
  state.counters["GB/s"] = benchmark::Counter(bytes * 1e-9, benchmark::Counter::kIsRate);
}

template <class Of>
void add_op(int threads) {
  for (const auto* row : runnable_rows<typename Of::Op>()) {
    if (row->isa() == Isa::scalar) continue;
    for (const int64_t tokens : {1, 4, 16, 64}) {
      for (const Way way : {Way::experts, Way::dense, Way::calls}) {
        add(std::string(row->name) + Of::kTitle + "/tokens:" + std::to_string(tokens) + "/" +
                kWays[static_cast<size_t>(way)] + "/threads:" + std::to_string(threads),
            [=](benchmark::State& s) { time_experts<Of>(s, *row, way, tokens, threads); });
      }
    }
  }
}

void register_all() {
  for (const int threads : {1, 2}) {
    add_probes(threads, {});
    add_op<OfW4A16>(threads);
    add_op<OfKquant>(threads);
    add_op<OfInt8>(threads);
  }
}

}  // namespace
}  // namespace qcore::bench

int main(int argc, char** argv) {
  qcore::bench::register_all();
  return qcore::bench::run(argc, argv);
}
