// The quantizers compiled for AVX512. Everything included before the target
// region is compiled for any machine; everything inside it lives in this namespace only.
#include "cpu/quantize/prelude.h"

QCORE_BEGIN_TARGET(QCORE_TARGET_AVX512)

namespace qcore::avx512::quantize {
// clang-format off
#include "cpu/simd/avx512.h"
#include "cpu/quantize/loops.h"
#include "cpu/quantize/fake_loops.h"
// clang-format on
}  // namespace qcore::avx512::quantize

QCORE_END_TARGET
