// The encoders compiled for AVX512. Everything included before the target region is compiled for
// any machine; everything inside it lives in this namespace only.
#include "formats/encode/prelude.h"

QCORE_BEGIN_TARGET(QCORE_TARGET_AVX512)

namespace qcore::avx512::encode {
#include "formats/encode/lanes_avx512.h"
#include "formats/encode/loops.h"
}  // namespace qcore::avx512::encode

QCORE_END_TARGET
