// Which instruction set the CPU rows may use.
#pragma once

#include "qcore/status.h"
#include "qcore/types.h"

namespace qcore {

struct IsaChoice {
  Isa isa = Isa::scalar;
  Status status;        // not ok: QCORE_FORCE_ISA names nothing, or more than the machine has
  bool forced = false;  // QCORE_FORCE_ISA took
};

// Reads QCORE_FORCE_ISA at every call, so that a test can change it.
IsaChoice choose_isa();

}  // namespace qcore
