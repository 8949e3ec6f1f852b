#include "cpu/kquant/kernels.h"

#include "cpu/layouts/block16.h"
#include "cpu/rows.h"
#include "formats/experts.h"

namespace qcore {
namespace {

Status takes_every_problem(const Kquant::Problem& problem) {
  return problem.weight.check();
}

constexpr Row<Kquant> row(const char* name, Isa isa,
                          Status (*gemm)(const KquantArgs&, const Executor&)) {
  return {
      {.name = name, .op = Kquant::kName, .needs = features_of(isa), .layout = &block16::layout},
      takes_every_problem,
      nullptr,
      gemm};
}

constexpr Row<Kquant> kRows[] = {
#if QCORE_X86
    row("kquant_avx512", Isa::avx512, avx512::kquant::kquant_gemm),
    row("kquant_avxvnni", Isa::avxvnni, avxvnni::kquant::kquant_gemm),
    row("kquant_avx2", Isa::avx2, avx2::kquant::kquant_gemm),
#endif
    row("kquant_reference", Isa::scalar, reference::kquant_gemm),
};

}  // namespace

KquantArgs args_of(const KquantArgs& args, int64_t expert) {
  KquantArgs of_one = args;
  const BlockShape& shape = args.weight.shape;
  of_one.weight.shape = shape.of_one_expert();
  of_one.weight.data = advance(args.weight.data, expert * expert_bytes(block16::layout, shape));
  of_one.bias = advance(args.bias, expert * shape.n * size_of(args.dtype));
  of_one.offsets = nullptr;
  return of_one;
}

std::span<const Row<Kquant>> kquant_cpu_rows() {
  return kRows;
}

}  // namespace qcore
