// Element types, devices and instruction sets: the vocabulary that every other header uses.
#pragma once

#include <cstdint>
#include <string_view>

namespace qcore {

enum class DType : uint8_t { f32, f16, bf16 };
enum class Device : uint8_t { cpu, cuda };

// CPU instruction sets, weakest first. `avx2` stands for AVX2 + FMA + F16C, `avx512` for
// AVX512 F + BW + DQ + VL + VNNI: the sets that come together on real machines.
enum class Isa : uint8_t { scalar, avx2, avx512 };

const char* name(DType dtype);
const char* name(Device device);
const char* name(Isa isa);

constexpr int64_t size_of(DType dtype) {
  return dtype == DType::f32 ? 4 : 2;
}
constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// What the processor (and the operating system) can run, found once by cpuid.
Isa detected_isa();

// The instruction set in use: `detected_isa()`, or a weaker one named by QCORE_FORCE_ISA
// (scalar, avx2, avx512), read at every call. A name that is unknown, or stronger than the machine,
// is reported by `select()`.
Isa active_isa();

}  // namespace qcore
