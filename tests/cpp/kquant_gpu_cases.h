// Problems for the CUDA kernels of the block formats, shared by their emulated tests and those that
// run on a GPU.
#pragma once

#include "gpu_cases.h"
#include "kquant_cases.h"

namespace qcore::testing {

// Bytes that any file may hold.
inline std::vector<uint8_t> random_bytes(int64_t count, Rng& rng) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(rng() >> 56);
  return bytes;
}

// Shapes around the tiles of the CUDA kernels: panels of 32, blocks of 32 .. 256 rows, chunks of 64
// and 128 columns.
inline KquantCase kquant_gpu_case(const BlockFormat& format, Rng& rng) {
  KquantCase c = random_kquant_case(format, rng);
  c.weight.n = pick<int64_t>(rng, {1, 15, 32, 33, 64, 65, 96, 127, 129, 256, uniform(rng, 1, 300)});
  c.weight.k = format.elements == 256 ? 256 * uniform(rng, 1, 4) : 32 * uniform(rng, 1, 32);
  c.m = pick<int64_t>(rng, {1, 1, 2, 7, 8, 9, 16, 17, 33, 64, 65, uniform(rng, 1, 90)});
  c.dtype = pick(rng, {DType::f16, DType::bf16});
  c.float_activations = true;
  c.gap = pick<int64_t>(rng, {0, 0, 1, 8});
  return c;
}

// Every element of y is as near to the exact product as rounding allows.
inline void expect_exact(const KquantData& data, const void* y, const std::string& how) {
  expect_exact(exact_gemm(data), data.shape.dtype, y, describe(data.shape) + ", " + how);
}

}  // namespace qcore::testing
