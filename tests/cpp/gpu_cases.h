// Problems for the CUDA kernels, shared by their emulated tests and those that run on a GPU.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>

#include "cases.h"
#include "w4a16/plan.h"

namespace qcore::testing {

// Shapes around the tiles of the CUDA kernels: panels of 64, blocks of 32 .. 256 rows, halves of 32
// columns and chunks of 64.
inline Case gpu_case(Rng& rng) {
  Case c;
  ScaledWeight& w = c.weight;
  w.elements = unsigned_of(pick(rng, {2, 3, 4, 4, 4, 8, 8})).value();
  w.n = pick<int64_t>(rng, {1, 15, 32, 33, 64, 65, 96, 255, 256, 257, uniform(rng, 1, 400)});
  w.k = pick<int64_t>(rng, {1, 8, 31, 64, 65, 128, 256, 264, 1000, uniform(rng, 1, 1200),
                            8 * uniform(rng, 1, 150)});
  w.group_size = std::min(w.k, pick<int64_t>(rng, {32, 64, 128, w.k, uniform(rng, 1, w.k), 48}));
  if (w.group_size < 8) w.k = std::min<int64_t>(w.k, 40);  // each group is padded to 32 columns
  w.has_zeros = pick(rng, {false, true});
  w.scale_dtype = pick(rng, {DType::f32, DType::f16, DType::bf16});
  c.dtype = pick(rng, {DType::f16, DType::bf16});
  if (w.elements == Elements::u8 && !w.has_zeros) {
    w.elements = pick(rng, {Elements::u8, Elements::e4m3, Elements::e5m2});
    if (w.elements == Elements::e5m2) c.dtype = DType::bf16;  // a float16 would overflow
  }
  c.m = pick<int64_t>(rng, {1, 2, 7, 8, 9, 16, 17, 31, 33, 64, 65, uniform(rng, 1, 300)});
  c.perm = pick(rng, {false, false, true});
  c.bias = pick(rng, {false, true});
  c.gap = pick<int64_t>(rng, {0, 0, 1, 8});
  return c;
}

// One kind of weight in one dtype; n, k and m are the test's.
inline Case kind_case(Rng& rng, int bits, int64_t group, DType dtype, int64_t n, int64_t k,
                      int64_t m) {
  return {.weight = {.n = n,
                     .k = k,
                     .group_size = std::min(k, group),
                     .elements = unsigned_of(bits).value(),
                     .has_zeros = pick(rng, {false, true}),
                     .scale_dtype = pick(rng, {DType::f32, DType::f16, DType::bf16})},
          .m = m,
          .dtype = dtype,
          .bias = true};
}

// QCORE_TEST_SEED changes the shapes and numbers of the random tests.
inline Rng fresh_rng(uint64_t salt) {
  const char* seed = std::getenv("QCORE_TEST_SEED");
  return Rng(salt + (seed ? std::strtoull(seed, nullptr, 10) * 1000 : 0));
}

// Every element of y is as near to the exact product as rounding allows.
inline void expect_exact(const std::vector<Exact>& exact, DType dtype, const void* y,
                         const std::string& what) {
  for (size_t i = 0; i < exact.size(); ++i) {
    const double got = load_scalar(dtype, y, static_cast<int64_t>(i));
    const double size = std::abs(exact[i].value);
    const double half_step = dtype == DType::f32    ? size * 0x1p-24
                             : dtype == DType::bf16 ? size * 0x1p-8
                                                    : std::max(size * 0x1p-11, 0x1p-25);
    const double bound = 8 * 0x1p-23 * exact[i].magnitude + 1.01 * half_step;
    ASSERT_LE(std::abs(got - exact[i].value), bound)  // false for NaN
        << what << ", at " << i << ": expected " << exact[i].value << ", got " << got;
  }
}
inline void expect_exact(const GemmData& data, const void* y, const std::string& how) {
  expect_exact(exact_gemm(data), data.shape.dtype, y, describe(data.shape) + ", " + how);
}

inline std::string describe(const tile::Plan& plan) {
  return "tokens " + std::to_string(plan.variant.token_tiles * 8) + ", warps along K " +
         std::to_string(plan.variant.warps_k) + ", splits " + std::to_string(plan.splits);
}

}  // namespace qcore::testing
