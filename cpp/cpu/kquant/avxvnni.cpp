// Op "kquant" compiled for AVX2 with AVX-VNNI. Everything included before the target region is
// compiled for any machine; everything inside it lives in this namespace only.
#include "cpu/kquant/prelude.h"

QCORE_BEGIN_TARGET(QCORE_TARGET_AVXVNNI)

namespace qcore::avxvnni::kquant {
#include "cpu/kquant/avxvnni.h"
#include "cpu/kquant/loops.h"
}  // namespace qcore::avxvnni::kquant

QCORE_END_TARGET
