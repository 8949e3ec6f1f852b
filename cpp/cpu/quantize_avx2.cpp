// Ops "quantize_int8" and "quantize_fp8" compiled for AVX2. Everything included before the target
// region is compiled for any machine; everything inside it lives in this namespace only.
#include "cpu/quantize/prelude.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace qcore::avx2::quantize {
#include "cpu/quantize/isa_avx2.h"
#include "cpu/quantize/loops.h"
}  // namespace qcore::avx2::quantize

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
