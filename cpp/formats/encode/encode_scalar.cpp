// The encoders compiled for any machine.
#include "formats/encode/prelude.h"

namespace qcore::reference::encode {
#include "formats/encode/lanes_scalar.h"
#include "formats/encode/loops.h"
}  // namespace qcore::reference::encode
