// The encoders compiled for any machine.
#include "cpu/encode/prelude.h"

namespace qcore::reference::encode {
// clang-format off
#include "cpu/simd/scalar.h"
#include "cpu/encode/loops.h"
// clang-format on
}  // namespace qcore::reference::encode
