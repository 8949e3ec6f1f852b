#include "cpu/scaled/fp8/kernels.h"

#include <memory>
#include <new>

#include "cpu/rows.h"

namespace qcore {
namespace {

Status takes_every_problem(const Fp8Problem&) {
  return {};
}

constexpr Row<Fp8> row(const char* name, Isa isa, RunFp8 gemm) {
  return {{.name = name, .op = Fp8::kName, .needs = features_of(isa)},
          takes_every_problem,
          nullptr,
          gemm};
}

constexpr Row<Fp8> kRows[] = {
#if QCORE_X86
    row("fp8_avx512", Isa::avx512, avx512::fp8::fp8_gemm),
    row("fp8_avx2", Isa::avx2, avx2::fp8::fp8_gemm),
#endif
    row("fp8_reference", Isa::scalar, reference::fp8_gemm),
};

template <class T>
std::unique_ptr<T[]> allocate(int64_t count) {
  return std::unique_ptr<T[]>(new (std::nothrow) T[static_cast<size_t>(count)]);
}

}  // namespace

Status fp8_from_floats(const Fp8Args& args, const Executor& executor, RunQuantizeFp8 quantize,
                       RunFp8 gemm) {
  if (!args.floats.x) return gemm(args, executor);
  const bool given = args.x_scale != nullptr, blocks = args.w_scales == Scales::block;
  const auto q = allocate<uint8_t>(args.m * args.k);
  const int64_t per_row = blocks ? ceil_div(args.k, kScaleBlock) : 1;
  const auto scales = allocate<float>(given ? 0 : args.m * per_row);
  if (!q || !scales) {
    return {StatusCode::out_of_memory, "fp8_gemm: no memory for a quantized copy of x"};
  }
  const Scales dynamic = blocks ? Scales::block : Scales::row;
  const QuantizeFp8Args quantizing{.x = args.floats,
                                   .type = args.x_type,
                                   .granularity = given ? args.x_scales : dynamic,
                                   .given_scale = args.x_scale,
                                   .q = q.get(),
                                   .scale = given ? nullptr : scales.get()};
  if (Status status = quantize(quantizing, executor); !status.ok()) return status;
  Fp8Args quantized = args;
  quantized.floats = {};
  quantized.x = q.get();
  quantized.x_stride = args.k;
  if (!given) {
    quantized.x_scale = scales.get();
    quantized.x_scales = dynamic;
  }
  return gemm(quantized, executor);
}

std::span<const Row<Fp8>> fp8_cpu_rows() {
  return kRows;
}

}  // namespace qcore
