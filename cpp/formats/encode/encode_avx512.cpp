// The encoders compiled for AVX512. Everything included before the target region is compiled for
// any machine; everything inside it lives in this namespace only.
#include "formats/encode/prelude.h"

#if defined(__clang__)
#pragma clang attribute push(                                                               \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#endif

namespace qcore::avx512::encode {
#include "formats/encode/lanes_avx512.h"
#include "formats/encode/loops.h"
}  // namespace qcore::avx512::encode

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
