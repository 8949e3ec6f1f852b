// Op "int8" compiled for AVX2 with AVX-VNNI. Everything included before the target region is
// compiled for any machine; everything inside it lives in this namespace only.
#include "cpu/int8/prelude.h"

#define QCORE_VNNI256 1
#define QCORE_VNNI256_BYTES _mm256_dpbusd_avx_epi32

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avxvnni,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avxvnni,avx2,fma,f16c")
#endif

namespace qcore::avxvnni::int8 {
#include "cpu/int8/isa_256.h"
#include "cpu/int8/loops.h"

Status int8_gemm(const Int8Args& args, const Executor& executor) {
  return int8_from_floats(args, executor, avx2::quantize::quantize_int8, gemm);
}
}  // namespace qcore::avxvnni::int8

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
