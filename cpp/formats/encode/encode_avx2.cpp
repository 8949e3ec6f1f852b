// The encoders compiled for AVX2. Everything included before the target region is compiled for any
// machine; everything inside it lives in this namespace only.
#include "formats/encode/prelude.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace qcore::avx2::encode {
#include "formats/encode/lanes_avx2.h"
#include "formats/encode/loops.h"
}  // namespace qcore::avx2::encode

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
