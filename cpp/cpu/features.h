// Which instruction sets the CPU rows may use.
#pragma once

#include <cstdint>
#include <string>

#include "qcore/status.h"
#include "qcore/types.h"

namespace qcore {

class IsaSet {
 public:
  constexpr IsaSet() { add(Isa::scalar); }
  constexpr void add(Isa isa) { bits_ |= 1u << static_cast<int>(isa); }
  constexpr bool has(Isa isa) const { return bits_ >> static_cast<int>(isa) & 1u; }
  Isa strongest() const;
  std::string names() const;  // "scalar, avx2"

 private:
  unsigned bits_ = 0;
};

// The words of cpuid that matter, 0 where the processor does not answer, and what the operating
// system saves of the registers.
struct CpuFacts {
  uint32_t leaf1_ecx = 0, leaf7_ebx = 0, leaf7_ecx = 0, leaf7_1_eax = 0;
  uint64_t xcr0 = 0;
};
IsaSet isas_of(const CpuFacts& cpu);

struct IsaChoice {
  IsaSet machine;
  Isa isa = Isa::scalar;  // rows of stronger ones are hidden
  Status status;          // not ok: `isa` was to be one that is unknown or that the machine lacks
};
// `wanted` null or empty: the strongest.
IsaChoice choose_isa(const IsaSet& machine, const char* wanted);

// For this machine and QCORE_FORCE_ISA, which is read at every call, so that a test can change it.
IsaChoice choose_isa();

}  // namespace qcore
