// Op "w4a16" compiled for AVX512. Everything included before the target region is compiled for any
// machine; everything inside it lives in this namespace only.
#include "cpu/w4a16_prelude.h"

QCORE_BEGIN_TARGET(QCORE_TARGET_AVX512)

namespace qcore::avx512 {
#include "cpu/vec_avx512.h"
#include "cpu/w4a16_loops.h"
}  // namespace qcore::avx512

QCORE_END_TARGET
