// The rows of the CPU: of each op, fastest first.
#pragma once

#include <span>

#include "qcore/fake_quantize.h"
#include "qcore/fp8.h"
#include "qcore/int8.h"
#include "qcore/kernel.h"
#include "qcore/kquant.h"
#include "qcore/quantize.h"
#include "qcore/w4a16.h"

namespace qcore {

std::span<const Row<W4A16>> w4a16_cpu_rows();
std::span<const Row<Kquant>> kquant_cpu_rows();
std::span<const Row<Int8>> int8_cpu_rows();
std::span<const Row<Fp8>> fp8_cpu_rows();
std::span<const Row<QuantizeInt8>> quantize_int8_cpu_rows();
std::span<const Row<QuantizeFp8>> quantize_fp8_cpu_rows();
std::span<const Row<FakeQuantize>> fake_quantize_cpu_rows();
std::span<const Row<FakeQuantizeBackward>> fake_quantize_backward_cpu_rows();

}  // namespace qcore
