// Op "w4a16" compiled for AVX512. Everything included before the target region is compiled for any
// machine; everything inside it lives in this namespace only.
#include "cpu/w4a16/prelude.h"

QCORE_BEGIN_TARGET(QCORE_TARGET_AVX512)

namespace qcore::avx512::w4a16 {
#include "cpu/w4a16/avx512.h"
#include "cpu/w4a16/loops.h"
}  // namespace qcore::avx512::w4a16

QCORE_END_TARGET
