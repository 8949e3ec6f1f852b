#include "cpu/quantize_cpu.h"

#include "registry.h"

namespace qcore {
namespace {

Status takes_every_problem(const QuantizeProblem&) {
  return {};
}

template <class Op>
constexpr Row<Op> row(const char* name, Isa isa,
                      Status (*run)(const typename Op::Args&, const Executor&)) {
  return {{.name = name, .op = Op::kName, .isa = isa}, takes_every_problem, nullptr, run};
}

constexpr Row<QuantizeInt8> kInt8Rows[] = {
    row<QuantizeInt8>("quantize_int8_reference", Isa::scalar, reference::quantize_int8),
};

constexpr Row<QuantizeFp8> kFp8Rows[] = {
    row<QuantizeFp8>("quantize_fp8_reference", Isa::scalar, reference::quantize_fp8),
};

}  // namespace

std::span<const Row<QuantizeInt8>> quantize_int8_cpu_rows() {
  return kInt8Rows;
}

std::span<const Row<QuantizeFp8>> quantize_fp8_cpu_rows() {
  return kFp8Rows;
}

}  // namespace qcore
