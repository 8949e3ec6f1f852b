// Where weights lie in the memory of the CPU.
#pragma once

#include <cstdint>

#include "qcore/export.h"

namespace QCORE_API qcore {

// Asks for huge pages under memory that is about to be written, where the system grants them on
// request. At M = 1 a weight is read at the speed of memory, and the walks through the tables of
// small pages, of which every 4 KB need one, cost up to a third of that (measured in a virtual
// machine with two threads). Only advice: what it cannot serve stays as it is.
void want_huge_pages(void* memory, int64_t bytes);

}  // namespace QCORE_API qcore
