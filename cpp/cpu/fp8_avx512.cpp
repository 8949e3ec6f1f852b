// Op "fp8" compiled for AVX512. Everything included before the target region is compiled for any
// machine; everything inside it lives in this namespace only.
#include "cpu/fp8/prelude.h"

#if defined(__clang__)
#pragma clang attribute push(                                                    \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

namespace qcore::avx512::fp8 {
#include "cpu/fp8/isa_avx512.h"
#include "cpu/fp8/loops.h"

Status fp8_gemm(const Fp8Args& args, const Executor& executor) {
  return fp8_from_floats(args, executor, avx512::quantize::quantize_fp8, gemm);
}
}  // namespace qcore::avx512::fp8

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
