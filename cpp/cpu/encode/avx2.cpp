// The encoders compiled for AVX2. Everything included before the target region is compiled for any
// machine; everything inside it lives in this namespace only.
#include "cpu/encode/prelude.h"

QCORE_BEGIN_TARGET(QCORE_TARGET_AVX2)

namespace qcore::avx2::encode {
// clang-format off
#include "cpu/simd/avx2.h"
#include "cpu/encode/loops.h"
// clang-format on
}  // namespace qcore::avx2::encode

QCORE_END_TARGET
