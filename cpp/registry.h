// Where the kernel rows come from: each device has one function that lists its rows, fastest first.
#pragma once

#include <span>

#include "qcore/kernel.h"

namespace qcore {

std::span<const KernelRow> cpu_rows();
#if QCORE_HAVE_CUDA
// Defined in cuda/rows.cpp.
std::span<const KernelRow> cuda_rows();
Status cuda_sm(int index, int& sm);  // compute capability of a GPU
#endif

}  // namespace qcore
