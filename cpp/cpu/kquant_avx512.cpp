// Op "kquant" compiled for AVX512 with VNNI. Everything included before the target region is
// compiled for any machine; everything inside it lives in this namespace only.
#include "cpu/kquant/prelude.h"

#if defined(__clang__)
#pragma clang attribute push(                                                               \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#endif

namespace qcore::avx512::kquant {
#include "cpu/kquant/isa_avx512.h"
#include "cpu/kquant/loops.h"
}  // namespace qcore::avx512::kquant

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
