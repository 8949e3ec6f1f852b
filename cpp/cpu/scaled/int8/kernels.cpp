#include "cpu/scaled/int8/kernels.h"

#include <memory>
#include <new>

#include "cpu/rows.h"
#include "formats/experts.h"

namespace qcore {
namespace {

Status takes_every_problem(const Int8Problem&) {
  return {};
}

constexpr Row<Int8> row(const char* name, Isa isa, RunInt8 gemm) {
  return {{.name = name, .op = Int8::kName, .needs = features_of(isa)},
          takes_every_problem,
          nullptr,
          gemm};
}

constexpr Row<Int8> kRows[] = {
#if QCORE_X86
    row("int8_avx512", Isa::avx512, avx512::int8::int8_gemm),
    row("int8_avxvnni", Isa::avxvnni, avxvnni::int8::int8_gemm),
    row("int8_avx2", Isa::avx2, avx2::int8::int8_gemm),
#endif
    row("int8_reference", Isa::scalar, reference::int8_gemm),
};

template <class T>
std::unique_ptr<T[]> allocate(int64_t count) {
  return std::unique_ptr<T[]>(new (std::nothrow) T[static_cast<size_t>(count)]);
}

}  // namespace

Status int8_from_floats(const Int8Args& args, const Executor& executor, RunQuantizeInt8 quantize,
                        RunInt8 gemm) {
  if (args.empty()) return {};
  if (!args.floats.x) return gemm(args, executor);
  const bool given = args.x_scale != nullptr;
  const auto q = allocate<int8_t>(args.m * args.k);
  const auto scales = allocate<float>(given ? 0 : args.m);
  const auto zeros = allocate<int32_t>(given || args.symmetric ? 0 : args.m);
  if (!q || !scales || !zeros) {
    return {StatusCode::out_of_memory, "int8_gemm: no memory for a quantized copy of x"};
  }
  const QuantizeInt8Args quantizing{.x = args.floats,
                                    .symmetric = args.symmetric,
                                    .granularity = given ? args.x_scales : Scales::row,
                                    .given_scale = args.x_scale,
                                    .given_zero = args.x_zero,
                                    .q = q.get(),
                                    .scale = given ? nullptr : scales.get(),
                                    .zero = given || args.symmetric ? nullptr : zeros.get()};
  if (Status status = quantize(quantizing, executor); !status.ok()) return status;
  Int8Args quantized = args;
  quantized.floats = {};
  quantized.x = q.get();
  quantized.x_stride = args.k;
  if (!given) {
    quantized.x_scale = scales.get();
    quantized.x_scales = Scales::row;
    quantized.x_zero = quantizing.zero;
  }
  return gemm(quantized, executor);
}

Int8Args args_of(const Int8Args& args, int64_t expert) {
  Int8Args of_one = args;
  of_one.experts = 1;
  of_one.offsets = nullptr;
  of_one.weight = advance(args.weight, expert * args.n * args.k);
  of_one.w_scale = advance(args.w_scale, expert * (args.w_scales == Scales::tensor ? 1 : args.n));
  of_one.w_sum = advance(args.w_sum, expert * args.n);
  of_one.bias = advance(args.bias, expert * args.n * size_of(args.bias_dtype));
  return of_one;
}

std::span<const Row<Int8>> int8_cpu_rows() {
  return kRows;
}

}  // namespace qcore
