// The quantizers compiled for AVX2. Everything included before the target
// region is compiled for any machine; everything inside it lives in this namespace only.
#include "cpu/quantize/prelude.h"

QCORE_BEGIN_TARGET(QCORE_TARGET_AVX2)

namespace qcore::avx2::quantize {
// clang-format off
#include "cpu/simd/avx2.h"
#include "cpu/quantize/loops.h"
#include "cpu/quantize/fake_loops.h"
// clang-format on
}  // namespace qcore::avx2::quantize

QCORE_END_TARGET
