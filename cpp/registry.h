// Where the kernel rows come from: each op has one function per device that lists its rows, fastest
// first.
#pragma once

#include <span>

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
#if QCORE_HAVE_CUDA
// Defined in cuda/rows.cpp.
std::span<const Row<W4A16>> w4a16_cuda_rows();
std::span<const Row<Kquant>> kquant_cuda_rows();
std::span<const Row<Int8>> int8_cuda_rows();
std::span<const Row<Fp8>> fp8_cuda_rows();
std::span<const Row<QuantizeInt8>> quantize_int8_cuda_rows();
std::span<const Row<QuantizeFp8>> quantize_fp8_cuda_rows();
Status cuda_sm(int index, int& sm);  // compute capability of a GPU
#endif

// What every call with a packed weight asks before it selects a row: that the layout exists and is
// read where the call runs. `sm` is the GPU's, 0 on the CPU.
Status check_place(int layout, const Executor& executor, int& sm);
// The same for a call without one.
Status check_device(const Executor& executor, int& sm);

}  // namespace qcore
