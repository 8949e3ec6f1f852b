// Op "kquant" compiled for AVX2 with AVX-VNNI. Everything included before the target region is
// compiled for any machine; everything inside it lives in this namespace only.
#include "cpu/kquant/prelude.h"

#define QCORE_VNNI256 1
#define QCORE_VNNI256_BYTES _mm256_dpbusd_avx_epi32
#define QCORE_VNNI256_WORDS _mm256_dpwssd_avx_epi32

QCORE_BEGIN_TARGET(QCORE_TARGET_AVXVNNI)

namespace qcore::avxvnni::kquant {
#include "cpu/kquant/isa_256.h"
#include "cpu/kquant/loops.h"
}  // namespace qcore::avxvnni::kquant

QCORE_END_TARGET
