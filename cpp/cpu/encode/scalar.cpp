// The encoders compiled for any machine.
#include "cpu/encode/prelude.h"

namespace qcore::reference::encode {
#include "cpu/encode/lanes_scalar.h"
#include "cpu/encode/loops.h"
}  // namespace qcore::reference::encode
