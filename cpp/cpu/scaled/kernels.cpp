#include "cpu/scaled/kernels.h"

#include <memory>
#include <new>
#include <string>

#include "cpu/rows.h"
#include "formats/experts.h"

namespace qcore {
namespace {

Status takes_every_problem(const ScaledProblem&) {
  return {};
}

template <class Op>
constexpr Row<Op> row(const char* name, Isa isa, RunScaled gemm) {
  return {{.name = name, .op = Op::kName, .needs = features_of(isa)},
          takes_every_problem,
          nullptr,
          gemm};
}

constexpr Row<Int8> kInt8Rows[] = {
#if QCORE_X86
    row<Int8>("int8_avx512", Isa::avx512, avx512::int8::int8_gemm),
    row<Int8>("int8_avxvnni", Isa::avxvnni, avxvnni::int8::int8_gemm),
    row<Int8>("int8_avx2", Isa::avx2, avx2::int8::int8_gemm),
#endif
    row<Int8>("int8_reference", Isa::scalar, reference::int8_gemm),
};

constexpr Row<Fp8> kFp8Rows[] = {
#if QCORE_X86
    row<Fp8>("fp8_avx512", Isa::avx512, avx512::fp8::fp8_gemm),
    row<Fp8>("fp8_avx2", Isa::avx2, avx2::fp8::fp8_gemm),
#endif
    row<Fp8>("fp8_reference", Isa::scalar, reference::fp8_gemm),
};

template <class T>
std::unique_ptr<T[]> allocate(int64_t count) {
  return std::unique_ptr<T[]>(new (std::nothrow) T[static_cast<size_t>(count)]);
}

}  // namespace

Status from_floats(const ScaledArgs& args, const Executor& executor, const Quantizers& quantizers,
                   RunScaled gemm) {
  if (args.empty()) return {};
  if (!args.floats.x) return gemm(args, executor);
  const bool given = args.x_scale != nullptr;
  const Granularity granularity = args.floats_scales();
  const auto q = allocate<uint8_t>(args.m * args.w.k);
  const int64_t per_row = granularity == Granularity::block ? ceil_div(args.w.k, kScaleBlock) : 1;
  const auto scales = allocate<float>(given ? 0 : args.m * per_row);
  const auto zeros = allocate<int32_t>(args.finds_zeros() ? args.m : 0);
  if (!q || !scales || !zeros) {
    return {StatusCode::out_of_memory, std::string(args.integers() ? Int8::kName : Fp8::kName) +
                                           "_gemm: no memory for a quantized copy of x"};
  }
  float* const scale = given ? nullptr : scales.get();
  int32_t* const zero = args.finds_zeros() ? zeros.get() : nullptr;
  const Status status = args.integers() ? quantizers.int8({.x = args.floats,
                                                           .symmetric = args.symmetric,
                                                           .granularity = granularity,
                                                           .given_scale = args.x_scale,
                                                           .given_zero = args.x_zero,
                                                           .q = reinterpret_cast<int8_t*>(q.get()),
                                                           .scale = scale,
                                                           .zero = zero},
                                                          executor)
                                        : quantizers.fp8({.x = args.floats,
                                                          .type = float8_of(args.x_type),
                                                          .granularity = granularity,
                                                          .given_scale = args.x_scale,
                                                          .q = q.get(),
                                                          .scale = scale},
                                                         executor);
  if (!status.ok()) return status;
  ScaledArgs quantized = args;
  quantized.floats = {};
  quantized.x = q.get();
  quantized.x_stride = args.w.k;
  if (!given) {
    quantized.x_scale = scale;
    quantized.x_scales = granularity;
    quantized.x_zero = zero;
  }
  return gemm(quantized, executor);
}

ScaledArgs args_of(const ScaledArgs& args, int64_t expert) {
  ScaledArgs of_one = args;
  of_one.w.experts = 1;
  of_one.offsets = nullptr;
  of_one.weight = advance(args.weight, expert * args.w.n * args.w.k);
  of_one.w_scale =
      advance(args.w_scale, expert * (args.w.granularity == Granularity::tensor ? 1 : args.w.n));
  of_one.w_sum = advance(args.w_sum, expert * args.w.n);
  of_one.bias = advance(args.bias, expert * args.w.n * size_of(args.bias_dtype));
  return of_one;
}

std::span<const Row<Int8>> int8_cpu_rows() {
  return kInt8Rows;
}

std::span<const Row<Fp8>> fp8_cpu_rows() {
  return kFp8Rows;
}

}  // namespace qcore
