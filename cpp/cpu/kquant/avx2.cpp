// Op "kquant" compiled for AVX2. Everything included before the target region is
// compiled for any machine; everything inside it lives in this namespace only.
#include "cpu/kquant/prelude.h"

QCORE_BEGIN_TARGET(QCORE_TARGET_AVX2)

namespace qcore::avx2::kquant {
#include "cpu/kquant/avx2.h"
#include "cpu/kquant/loops.h"
}  // namespace qcore::avx2::kquant

QCORE_END_TARGET
