// What the machine can do, measured in the same run as the kernels: the ceilings to read them
// against.
#pragma once

#include <cstdint>

#include "qcore/qcore.h"

namespace qcore::bench {

// Reads `bytes` (a multiple of 512) once and returns something that depends on all of them.
uint64_t read_all(Isa isa, const void* data, int64_t bytes);

// `rounds` steps of independent chains of vector multiply-adds in fp32; returns the number of
// flops.
double multiply_add(Isa isa, int64_t rounds, float* sink);

// The same for dot products of bytes with 32-bit sums, by the instructions that integer kernels of
// `isa` use; returns the number of integer operations, two for a multiply-add.
double multiply_int8(Isa isa, int64_t rounds, int32_t* sink);

}  // namespace qcore::bench
