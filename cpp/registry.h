// The registry of kernel rows: what the public entry of an op asks it before it runs one.
#pragma once

#include "qcore/executor.h"
#include "qcore/kernel.h"
#include "qcore/status.h"

namespace qcore {

// What every call with a packed weight asks before it selects a row: that the layout exists and is
// read where the call runs. `sm` is the GPU's, 0 on the CPU.
Status check_place(int layout, const Executor& executor, int& sm);
// The same for a call without one.
Status check_device(const Executor& executor, int& sm);

}  // namespace qcore
