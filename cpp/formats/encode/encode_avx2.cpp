// The encoders compiled for AVX2. Everything included before the target region is compiled for any
// machine; everything inside it lives in this namespace only.
#include "formats/encode/prelude.h"

QCORE_BEGIN_TARGET(QCORE_TARGET_AVX2)

namespace qcore::avx2::encode {
#include "formats/encode/lanes_avx2.h"
#include "formats/encode/loops.h"
}  // namespace qcore::avx2::encode

QCORE_END_TARGET
