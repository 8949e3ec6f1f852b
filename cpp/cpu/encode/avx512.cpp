// The encoders compiled for AVX512. Everything included before the target region is compiled for
// any machine; everything inside it lives in this namespace only.
#include "cpu/encode/prelude.h"

QCORE_BEGIN_TARGET(QCORE_TARGET_AVX512)

namespace qcore::avx512::encode {
// clang-format off
#include "cpu/simd/avx512.h"
#include "cpu/encode/loops.h"
// clang-format on
}  // namespace qcore::avx512::encode

QCORE_END_TARGET
