// Op "int8" compiled for AVX512 with VNNI. Everything included before the target region is compiled
// for any machine; everything inside it lives in this namespace only.
#include "cpu/int8/prelude.h"

#if defined(__clang__)
#pragma clang attribute push(                                                               \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#endif

namespace qcore::avx512::int8 {
#include "cpu/int8/isa_avx512.h"
#include "cpu/int8/loops.h"

Status int8_gemm(const Int8Args& args, const Executor& executor) {
  return int8_from_floats(args, executor, avx512::quantize::quantize_int8, gemm);
}
}  // namespace qcore::avx512::int8

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
