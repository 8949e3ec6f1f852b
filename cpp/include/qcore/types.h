// Element types, devices and instruction sets: the vocabulary that every other header uses.
#pragma once

#include <cstdint>
#include <string_view>

namespace qcore {

enum class DType : uint8_t { f32, f16, bf16 };
enum class Device : uint8_t { cpu, cuda };

// Numbers of 8 bits: torch.float8_e4m3fn (bias 7, no infinities, NaN is 0x7f and 0xff, the largest
// 448) and torch.float8_e5m2 (the upper half of a float16, the largest 57344).
enum class Float8 : uint8_t { e4m3, e5m2 };

// CPU instruction sets, weakest first. `avx2` stands for AVX2 + FMA + F16C, `avxvnni` for these and
// AVX-VNNI (vpdpbusd on ymm without AVX512), `avx512` for AVX512 F + BW + DQ + VL + VNNI: the sets
// that come together on real machines. They are no chain: Zen 4 has avx512 and lacks avxvnni.
enum class Isa : uint8_t { scalar, avx2, avxvnni, avx512 };
inline constexpr Isa kIsas[] = {Isa::scalar, Isa::avx2, Isa::avxvnni, Isa::avx512};

const char* name(DType dtype);
const char* name(Device device);
const char* name(Isa isa);
const char* name(Float8 type);

constexpr float max_of(Float8 type) {
  return type == Float8::e4m3 ? 448.0f : 57344.0f;
}
constexpr int64_t size_of(DType dtype) {
  return dtype == DType::f32 ? 4 : 2;
}
constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Whether the processor (and the operating system) can run it, found once by cpuid.
bool has_isa(Isa isa);
Isa detected_isa();  // the strongest of them

// The instruction set in use: `detected_isa()`, or the one named by QCORE_FORCE_ISA (scalar, avx2,
// avxvnni, avx512), read at every call, which hides the rows of stronger ones. A name that is
// unknown, or that the machine lacks, is reported by `select()`.
Isa active_isa();

}  // namespace qcore
