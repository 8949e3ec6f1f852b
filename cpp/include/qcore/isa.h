// Instruction sets of CPUs: what a kernel row needs of a processor is a set of features. Sets that
// come together on real machines have names, by which people ask for them and rows are listed.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "qcore/export.h"

namespace QCORE_API qcore {

enum class CpuFeature : uint8_t {
  avx2,
  fma,
  f16c,
  avx_vnni,  // vpdpbusd on ymm without AVX512
  avx512f,
  avx512bw,
  avx512dq,
  avx512vl,
  avx512_vnni,
};

class CpuFeatures {
 public:
  constexpr CpuFeatures() = default;
  constexpr CpuFeatures(std::initializer_list<CpuFeature> features) {
    for (const CpuFeature feature : features) bits_ |= 1u << static_cast<unsigned>(feature);
  }
  constexpr CpuFeatures operator|(CpuFeatures other) const {
    other.bits_ |= bits_;
    return other;
  }
  constexpr bool has(CpuFeatures needed) const { return (needed.bits_ & ~bits_) == 0; }
  constexpr bool operator==(const CpuFeatures&) const = default;

 private:
  uint32_t bits_ = 0;
};

// The named sets, in the order in which they are listed, the one to prefer last. They are no chain:
// Zen 4 has avx512 and lacks avxvnni.
enum class Isa : uint8_t { scalar, avx2, avxvnni, avx512 };
inline constexpr Isa kIsas[] = {Isa::scalar, Isa::avx2, Isa::avxvnni, Isa::avx512};

constexpr CpuFeatures features_of(Isa isa) {
  using enum CpuFeature;
  constexpr CpuFeatures kAvx2{avx2, fma, f16c};
  switch (isa) {
    case Isa::avx2: return kAvx2;
    case Isa::avxvnni: return kAvx2 | CpuFeatures{avx_vnni};
    case Isa::avx512:
      return kAvx2 | CpuFeatures{avx512f, avx512bw, avx512dq, avx512vl, avx512_vnni};
    default: return {};
  }
}
// The first set that has all of them.
constexpr Isa isa_of(CpuFeatures needed) {
  for (const Isa isa : kIsas) {
    if (features_of(isa).has(needed)) return isa;
  }
  return Isa::avx512;
}

const char* name(Isa isa);

// Whether the processor (and the operating system) has all of a set, found once by cpuid.
bool has_isa(Isa isa);
Isa detected_isa();  // the last that it has

// The instruction set in use: `detected_isa()`, or the one named by QCORE_FORCE_ISA (scalar, avx2,
// avxvnni, avx512), read at every call, which hides the rows that need more than it has. A name
// that is unknown, or that the machine lacks, is reported by `select()`.
Isa active_isa();

}  // namespace QCORE_API qcore
