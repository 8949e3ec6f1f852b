// cpuid facts: leaf 1 ECX has FMA (bit 12), OSXSAVE (27), AVX (28), F16C (29); leaf 7.0 EBX has
// AVX2 (5), AVX512 F (16), DQ (17), BW (30), VL (31), and ECX has AVX512 VNNI (11). The
// instructions may be used only when the operating system saves their registers: XCR0 must have SSE
// and AVX state (bits 1, 2) for ymm, and also opmask and both zmm halves (bits 5, 6, 7) for zmm.
#include "cpu/features.h"

#include <cstdlib>
#include <string>
#include <string_view>

#if QCORE_X86
#include <cpuid.h>
#endif

namespace qcore {
namespace {

#if QCORE_X86

constexpr bool all(uint64_t word, uint64_t mask) {
  return (word & mask) == mask;
}
constexpr uint64_t bit(int i) {
  return uint64_t{1} << i;
}

uint64_t read_xcr0() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

Isa detect() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return Isa::scalar;
  if (!all(c, bit(12) | bit(27) | bit(28) | bit(29))) return Isa::scalar;
  const uint64_t xcr0 = read_xcr0();
  if (!all(xcr0, bit(1) | bit(2))) return Isa::scalar;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !all(b, bit(5))) return Isa::scalar;
  const bool avx512 = all(b, bit(16) | bit(17) | bit(30) | bit(31)) && all(c, bit(11)) &&
                      all(xcr0, bit(5) | bit(6) | bit(7));
  return avx512 ? Isa::avx512 : Isa::avx2;
}

#else

Isa detect() {
  return Isa::scalar;
}

#endif

}  // namespace

Isa detected_isa() {
  static const Isa isa = detect();
  return isa;
}

IsaChoice choose_isa() {
  const char* wanted = std::getenv("QCORE_FORCE_ISA");
  const Isa machine = detected_isa();
  if (!wanted || !*wanted) return {machine, {}, false};
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    if (std::string_view(wanted) != name(isa)) continue;
    if (isa <= machine) return {isa, {}, true};
    return {machine,
            Status::unsupported(std::string("QCORE_FORCE_ISA=") + wanted + ": this machine has " +
                                name(machine)),
            false};
  }
  return {machine,
          Status::invalid(std::string("QCORE_FORCE_ISA=") + wanted +
                          ": expected scalar, avx2 or avx512"),
          false};
}

Isa active_isa() {
  return choose_isa().isa;
}

}  // namespace qcore
