// Op "kquant" compiled for AVX512 with VNNI. Everything included before the target region is
// compiled for any machine; everything inside it lives in this namespace only.
#include "cpu/kquant/prelude.h"

QCORE_BEGIN_TARGET(QCORE_TARGET_AVX512)

namespace qcore::avx512::kquant {
#include "cpu/kquant/avx512.h"
#include "cpu/kquant/loops.h"
}  // namespace qcore::avx512::kquant

QCORE_END_TARGET
