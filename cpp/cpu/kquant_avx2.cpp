// Op "kquant" compiled for AVX2. Everything included before the target region is
// compiled for any machine; everything inside it lives in this namespace only.
#include "cpu/kquant/prelude.h"

#define QCORE_VNNI256 0

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace qcore::avx2::kquant {
#include "cpu/kquant/isa_256.h"
#include "cpu/kquant/loops.h"
}  // namespace qcore::avx2::kquant

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
