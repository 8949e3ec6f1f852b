#include "cpu/w4a16/kernels.h"

#include <string>

#include "cpu/layouts/panel16.h"
#include "cpu/rows.h"
#include "formats/experts.h"

namespace qcore {
namespace {

Status takes_every_problem(const W4A16::Problem& problem) {
  return problem.weight.check();
}

constexpr Row<W4A16> row(const char* name, Isa isa,
                         Status (*gemm)(const W4A16Args&, const Executor&)) {
  return {{.name = name, .op = W4A16::kName, .needs = features_of(isa), .layout = &panel16::layout},
          takes_every_problem,
          nullptr,
          gemm};
}

constexpr Row<W4A16> kRows[] = {
#if QCORE_X86
    row("w4a16_avx512", Isa::avx512, avx512::w4a16::w4a16_gemm),
    row("w4a16_avx2", Isa::avx2, avx2::w4a16::w4a16_gemm),
#endif
    row("w4a16_reference", Isa::scalar, reference::w4a16_gemm),
};

}  // namespace

std::span<const Row<W4A16>> w4a16_cpu_rows() {
  return kRows;
}

namespace {

Status check_perm(const int32_t* perm, int64_t k) {
  const uint32_t limit = static_cast<uint32_t>(k);
  uint32_t largest = 0;  // a negative column is a large unsigned one
  for (int64_t i = 0; i < k; ++i) {
    const uint32_t column = static_cast<uint32_t>(perm[i]);
    largest = column > largest ? column : largest;
  }
  if (largest < limit) return {};
  int64_t i = 0;
  while (static_cast<uint32_t>(perm[i]) < limit) ++i;
  return Status::invalid("perm: expected columns in [0, " + std::to_string(k) + "), got " +
                         std::to_string(perm[i]) + " at " + std::to_string(i));
}

}  // namespace

Status check_perms(const W4A16Args& args) {
  const int64_t k = args.weight.shape.k;
  for (int64_t e = 0; args.perm && e < args.weight.shape.experts; ++e) {
    if (args.offsets && args.offsets[e] == args.offsets[e + 1]) continue;
    if (Status status = check_perm(args.perm + e * k, k); !status.ok()) return status;
  }
  return {};
}

W4A16Args args_of(const W4A16Args& args, int64_t expert) {
  W4A16Args of_one = args;
  const ScaledWeight& shape = args.weight.shape;
  of_one.weight = expert_of(args.weight, panel16::packed_sizes(shape.of_one_expert()), expert);
  of_one.perm = advance(args.perm, expert * shape.k);
  of_one.bias = advance(args.bias, expert * shape.n * size_of(args.dtype));
  of_one.offsets = nullptr;
  return of_one;
}

}  // namespace qcore
