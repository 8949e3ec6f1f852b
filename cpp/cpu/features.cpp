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

const CpuFeatures& this_machine() {
  static const CpuFeatures features = features_of(read_cpu());
  return features;
}

}  // namespace

Isa strongest_of(const CpuFeatures& features) {
  Isa strongest = Isa::scalar;
  for (const Isa isa : kIsas) {
    if (features.has(features_of(isa))) strongest = isa;
  }
  return strongest;
}

std::string names_of(const CpuFeatures& features) {
  std::string text;
  for (const Isa isa : kIsas) {
    if (features.has(features_of(isa))) text += (text.empty() ? "" : ", ") + std::string(name(isa));
  }
  return text;
}

CpuFeatures features_of(const CpuFacts& cpu) {
  using enum CpuFeature;
  CpuFeatures features;
  const auto add = [&](CpuFeature feature, uint32_t word, int at) {
    if (all(word, bit(at))) features = features | CpuFeatures{feature};
  };
  if (!all(cpu.leaf1_ecx, bit(27) | bit(28)) || !all(cpu.xcr0, bit(1) | bit(2))) return features;
  add(fma, cpu.leaf1_ecx, 12);
  add(f16c, cpu.leaf1_ecx, 29);
  add(avx2, cpu.leaf7_ebx, 5);
  add(avx_vnni, cpu.leaf7_1_eax, 4);
  if (!all(cpu.xcr0, bit(5) | bit(6) | bit(7))) return features;
  add(avx512f, cpu.leaf7_ebx, 16);
  add(avx512dq, cpu.leaf7_ebx, 17);
  add(avx512bw, cpu.leaf7_ebx, 30);
  add(avx512vl, cpu.leaf7_ebx, 31);
  add(avx512_vnni, cpu.leaf7_ecx, 11);
  return features;
}

IsaChoice choose_isa(const CpuFeatures& machine, const char* wanted) {
  IsaChoice choice{machine, machine, strongest_of(machine), {}};
  if (!wanted || !*wanted) return choice;
  for (const Isa isa : kIsas) {
    if (std::string_view(wanted) != name(isa)) continue;
    if (machine.has(features_of(isa))) {
      choice.isa = isa;
      choice.allowed = features_of(isa);
    } else {
      choice.status = Status::unsupported(std::string("QCORE_FORCE_ISA=") + wanted +
                                          ": this machine has " + names_of(machine));
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
  return this_machine().has(features_of(isa));
}

Isa detected_isa() {
  return strongest_of(this_machine());
}

Isa active_isa() {
  return choose_isa().isa;
}

}  // namespace qcore
