// Which features of the processor the CPU rows may use.
#pragma once

#include <cstdint>
#include <string>

#include "qcore/isa.h"
#include "qcore/status.h"

namespace qcore {

Isa strongest_of(const CpuFeatures& features);
std::string names_of(const CpuFeatures& features);  // "scalar, avx2"

// The words of cpuid that matter, 0 where the processor does not answer, and what the operating
// system saves of the registers.
struct CpuFacts {
  uint32_t leaf1_ecx = 0, leaf7_ebx = 0, leaf7_ecx = 0, leaf7_1_eax = 0;
  uint64_t xcr0 = 0;
};
CpuFeatures features_of(const CpuFacts& cpu);

struct IsaChoice {
  CpuFeatures machine;
  CpuFeatures allowed;  // rows that need others are hidden
  Isa isa = Isa::scalar;
  Status status;  // not ok: `isa` was to be one that is unknown or that the machine lacks
};
// `wanted` null or empty: all that the machine has.
IsaChoice choose_isa(const CpuFeatures& machine, const char* wanted);

// For this machine and QCORE_FORCE_ISA, which is read at every call, so that a test can change it.
IsaChoice choose_isa();

}  // namespace qcore
