#include "cpu/quantize/kernels.h"

#include "cpu/rows.h"

namespace qcore {
namespace {

template <class Problem>
Status takes_every_problem(const Problem&) {
  return {};
}

template <class Op>
constexpr Row<Op> row(const char* name, Isa isa,
                      Status (*run)(const typename Op::Args&, const Executor&)) {
  return {{.name = name, .op = Op::kName, .needs = features_of(isa)},
          takes_every_problem<typename Op::Problem>,
          nullptr,
          run};
}

constexpr Row<QuantizeInt8> kInt8Rows[] = {
#if QCORE_X86
    row<QuantizeInt8>("quantize_int8_avx512", Isa::avx512, avx512::quantize::quantize_int8),
    row<QuantizeInt8>("quantize_int8_avx2", Isa::avx2, avx2::quantize::quantize_int8),
#endif
    row<QuantizeInt8>("quantize_int8_reference", Isa::scalar, reference::quantize_int8),
};

constexpr Row<QuantizeFp8> kFp8Rows[] = {
#if QCORE_X86
    row<QuantizeFp8>("quantize_fp8_avx512", Isa::avx512, avx512::quantize::quantize_fp8),
    row<QuantizeFp8>("quantize_fp8_avx2", Isa::avx2, avx2::quantize::quantize_fp8),
#endif
    row<QuantizeFp8>("quantize_fp8_reference", Isa::scalar, reference::quantize_fp8),
};

constexpr Row<FakeQuantize> kFakeRows[] = {
#if QCORE_X86
    row<FakeQuantize>("fake_quantize_avx512", Isa::avx512, avx512::quantize::fake_quantize),
    row<FakeQuantize>("fake_quantize_avx2", Isa::avx2, avx2::quantize::fake_quantize),
#endif
    row<FakeQuantize>("fake_quantize_reference", Isa::scalar, reference::fake_quantize),
};

constexpr Row<FakeQuantizeBackward> kFakeBackwardRows[] = {
#if QCORE_X86
    row<FakeQuantizeBackward>("fake_quantize_backward_avx512", Isa::avx512,
                              avx512::quantize::fake_quantize_backward),
    row<FakeQuantizeBackward>("fake_quantize_backward_avx2", Isa::avx2,
                              avx2::quantize::fake_quantize_backward),
#endif
    row<FakeQuantizeBackward>("fake_quantize_backward_reference", Isa::scalar,
                              reference::fake_quantize_backward),
};

}  // namespace

std::span<const Row<QuantizeInt8>> quantize_int8_cpu_rows() {
  return kInt8Rows;
}

std::span<const Row<QuantizeFp8>> quantize_fp8_cpu_rows() {
  return kFp8Rows;
}

std::span<const Row<FakeQuantize>> fake_quantize_cpu_rows() {
  return kFakeRows;
}

std::span<const Row<FakeQuantizeBackward>> fake_quantize_backward_cpu_rows() {
  return kFakeBackwardRows;
}

}  // namespace qcore
