// The CUDA kernel rows: of each op, fastest first.
#pragma once

#include <span>

#include "qcore/fp8.h"
#include "qcore/int8.h"
#include "qcore/kernel.h"
#include "qcore/kquant.h"
#include "qcore/quantize.h"
#include "qcore/status.h"
#include "qcore/w4a16.h"

namespace qcore {

std::span<const Row<W4A16>> w4a16_cuda_rows();
std::span<const Row<Kquant>> kquant_cuda_rows();
std::span<const Row<Int8>> int8_cuda_rows();
std::span<const Row<Fp8>> fp8_cuda_rows();
std::span<const Row<QuantizeInt8>> quantize_int8_cuda_rows();
std::span<const Row<QuantizeFp8>> quantize_fp8_cuda_rows();
Status cuda_sm(int index, int& sm);  // compute capability of a GPU

}  // namespace qcore
