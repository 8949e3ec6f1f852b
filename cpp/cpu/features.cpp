// cpuid facts: leaf 1 ECX has FMA (bit 12), OSXSAVE (27), AVX (28), F16C (29); leaf 7.0 EBX has
// AVX2 (5), AVX512 F (16), DQ (17), BW (30), VL (31), and ECX has AVX512 VNNI (11); leaf 7.1 EAX
// has AVX-VNNI (4). The instructions may be used only when the operating system saves their
// registers: XCR0 must have SSE and AVX state (bits 1, 2) for ymm, and also opmask and both zmm
// halves (bits 5, 6, 7) for zmm.
#include "cpu/features.h"

#include <cstdlib>
#include <string_view>

#if QCORE_X86
#include <cpuid.h>
#endif

namespace qcore {
namespace {

constexpr bool all(uint64_t word, uint64_t mask) {
  return (word & mask) == mask;
}
constexpr uint64_t bit(int i) {
  return uint64_t{1} << i;
}

#if QCORE_X86

uint64_t read_xcr0() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

CpuFacts read_cpu() {
  CpuFacts cpu;
  unsigned a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d)) cpu.leaf1_ecx = c;
  if (all(cpu.leaf1_ecx, bit(27))) cpu.xcr0 = read_xcr0();
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return cpu;
  cpu.leaf7_ebx = b;
  cpu.leaf7_ecx = c;
  // EAX of 7.0 is the last subleaf.
  if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) cpu.leaf7_1_eax = a;
  return cpu;
}

#else

CpuFacts read_cpu() {
  return {};
}

#endif

const IsaSet& this_machine() {
  static const IsaSet isas = isas_of(read_cpu());
  return isas;
}

}  // namespace

Isa IsaSet::strongest() const {
  Isa strongest = Isa::scalar;
  for (const Isa isa : kIsas) {
    if (has(isa)) strongest = isa;
  }
  return strongest;
}

std::string IsaSet::names() const {
  std::string text;
  for (const Isa isa : kIsas) {
    if (has(isa)) text += (text.empty() ? "" : ", ") + std::string(name(isa));
  }
  return text;
}

IsaSet isas_of(const CpuFacts& cpu) {
  IsaSet isas;
  if (!all(cpu.leaf1_ecx, bit(12) | bit(27) | bit(28) | bit(29)) ||
      !all(cpu.xcr0, bit(1) | bit(2)) || !all(cpu.leaf7_ebx, bit(5))) {
    return isas;
  }
  isas.add(Isa::avx2);
  if (all(cpu.leaf7_1_eax, bit(4))) isas.add(Isa::avxvnni);
  if (all(cpu.leaf7_ebx, bit(16) | bit(17) | bit(30) | bit(31)) && all(cpu.leaf7_ecx, bit(11)) &&
      all(cpu.xcr0, bit(5) | bit(6) | bit(7))) {
    isas.add(Isa::avx512);
  }
  return isas;
}

IsaChoice choose_isa(const IsaSet& machine, const char* wanted) {
  IsaChoice choice{machine, machine.strongest(), {}};
  if (!wanted || !*wanted) return choice;
  for (const Isa isa : kIsas) {
    if (std::string_view(wanted) != name(isa)) continue;
    if (machine.has(isa)) {
      choice.isa = isa;
    } else {
      choice.status = Status::unsupported(std::string("QCORE_FORCE_ISA=") + wanted +
                                          ": this machine has " + machine.names());
    }
    return choice;
  }
  choice.status = Status::invalid(std::string("QCORE_FORCE_ISA=") + wanted +
                                  ": expected scalar, avx2, avxvnni or avx512");
  return choice;
}

IsaChoice choose_isa() {
  return choose_isa(this_machine(), std::getenv("QCORE_FORCE_ISA"));
}

bool has_isa(Isa isa) {
  return this_machine().has(isa);
}

Isa detected_isa() {
  return this_machine().strongest();
}

Isa active_isa() {
  return choose_isa().isa;
}

}  // namespace qcore
