// Memory: wide loads over a stream, asked for a page ahead into the second cache (of seven ways
// tried the fastest), 8 accumulators so that additions never wait. Multiply units: 12 or 16
// independent chains of VFMADD or VPDPBUSD, more than latency (4) x throughput (2) needs.
#include "probes.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace qcore::bench {
namespace {

#if defined(__x86_64__)

__attribute__((target("avx2"))) uint64_t read_avx2(const void* data, int64_t bytes) {
  const __m256i* p = static_cast<const __m256i*>(data);
  __m256i sum[8] = {};
  for (const __m256i* end = p + bytes / 32; p < end; p += 8) {
    const char* ahead = reinterpret_cast<const char*>(p) + 4096;
    for (int line = 0; line < 256; line += 64) _mm_prefetch(ahead + line, _MM_HINT_T1);
    for (int i = 0; i < 8; ++i) sum[i] = _mm256_add_epi64(sum[i], _mm256_loadu_si256(p + i));
  }
  for (int i = 1; i < 8; ++i) sum[0] = _mm256_add_epi64(sum[0], sum[i]);
  uint64_t lanes[4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), sum[0]);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

__attribute__((target("avx2,fma"))) double multiply_add_avx2(int64_t rounds, float* sink) {
  __m256 acc[12];
  for (__m256& a : acc) a = _mm256_set1_ps(*sink);
  const __m256 x = _mm256_set1_ps(0.5f), y = _mm256_set1_ps(*sink);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (__m256& a : acc) a = _mm256_fmadd_ps(a, x, y);
  }
  for (const __m256& a : acc) *sink += _mm256_cvtss_f32(a);
  return static_cast<double>(rounds) * 12 * 16;
}

__attribute__((target("avx512f"))) double multiply_add_avx512(int64_t rounds, float* sink) {
  __m512 acc[16];
  for (__m512& a : acc) a = _mm512_set1_ps(*sink);
  const __m512 x = _mm512_set1_ps(0.5f), y = _mm512_set1_ps(*sink);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (__m512& a : acc) a = _mm512_fmadd_ps(a, x, y);
  }
  for (const __m512& a : acc) *sink += _mm512_cvtss_f32(a);
  return static_cast<double>(rounds) * 16 * 32;
}

// The compiler must neither fold equal chains into one nor hoist products out of the loop.
template <class T>
__attribute__((always_inline)) inline void opaque(T& value) {
  __asm__ volatile("" : "+v"(value));
}

// AVX2 without VNNI: products of pairs in 16 bits, widened by a product with one, then added.
__attribute__((target("avx2"))) double multiply_int8_avx2(int64_t rounds, int32_t* sink) {
  __m256i acc[12] = {};
  __m256i a = _mm256_set1_epi8(static_cast<char>(*sink)), b = _mm256_set1_epi8(3);
  const __m256i one = _mm256_set1_epi16(1);
  for (__m256i& sum : acc) opaque(sum);
  for (int64_t i = 0; i < rounds; ++i) {
    opaque(a);
#pragma GCC unroll 12
    for (__m256i& sum : acc) {
      opaque(b);
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), one));
    }
  }
  for (const __m256i& sum : acc) *sink += _mm256_extract_epi32(sum, 0);
  return static_cast<double>(rounds) * 12 * 64;
}

// The whole loop is one statement: compilers like to move the sums about or to store them in
// between, which costs up to half of the speed.
#define QCORE_CHAIN(vex, reg, n) vex "vpdpbusd %1, %1, %%" reg #n "\n\t"
#define QCORE_CHAINS(vex, reg)                                                                     \
  __asm__ volatile("1:\n\t" QCORE_CHAIN(vex, reg, 0) QCORE_CHAIN(vex, reg, 1)                      \
                       QCORE_CHAIN(vex, reg, 2) QCORE_CHAIN(vex, reg, 3) QCORE_CHAIN(vex, reg, 4)  \
                           QCORE_CHAIN(vex, reg, 5) QCORE_CHAIN(vex, reg, 6)                       \
                               QCORE_CHAIN(vex, reg, 7) QCORE_CHAIN(vex, reg, 8)                   \
                                   QCORE_CHAIN(vex, reg, 9) QCORE_CHAIN(vex, reg, 10)              \
                                       QCORE_CHAIN(vex, reg, 11) "dec %0\n\tjg 1b"                 \
                   : "+r"(rounds)                                                                  \
                   : "v"(a)                                                                        \
                   : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
                     "xmm9", "xmm10", "xmm11")

__attribute__((target("avx2"))) double multiply_int8_avxvnni(int64_t rounds) {
  const __m256i a = _mm256_set1_epi8(3);
  const double products = static_cast<double>(rounds) * 12 * 64;
  QCORE_CHAINS("%{vex%} ", "ymm");
  return products;
}

__attribute__((target("avx512f"))) double multiply_int8_avx512(int64_t rounds) {
  const __m512i a = _mm512_set1_epi8(3);
  const double products = static_cast<double>(rounds) * 12 * 128;
  QCORE_CHAINS("", "zmm");
  return products;
}

#endif

uint64_t read_scalar(const void* data, int64_t bytes) {
  const uint64_t* p = static_cast<const uint64_t*>(data);
  uint64_t sum = 0;
  for (int64_t i = 0; i < bytes / 8; ++i) sum += p[i];
  return sum;
}

double multiply_add_scalar(int64_t rounds, float* sink) {
  float acc[16];
  for (float& a : acc) a = *sink;
  for (int64_t i = 0; i < rounds; ++i) {
    for (float& a : acc) a = a * 0.5f + *sink;
  }
  for (const float a : acc) *sink += a;
  return static_cast<double>(rounds) * 32;
}

double multiply_int8_scalar(int64_t rounds, int32_t* sink) {
  uint32_t acc[16] = {};
  const uint32_t b = static_cast<uint32_t>(*sink);
  for (int64_t i = 0; i < rounds; ++i) {
    for (uint32_t& a : acc) a = a * b + static_cast<uint32_t>(i);
  }
  for (const uint32_t a : acc) *sink += static_cast<int32_t>(a & 0xff);
  return static_cast<double>(rounds) * 32;
}

}  // namespace

uint64_t read_all(Isa isa, const void* data, int64_t bytes) {
#if defined(__x86_64__)
  if (isa != Isa::scalar) return read_avx2(data, bytes);
#endif
  static_cast<void>(isa);
  return read_scalar(data, bytes);
}

double multiply_add(Isa isa, int64_t rounds, float* sink) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return multiply_add_avx512(rounds, sink);
  if (isa != Isa::scalar) return multiply_add_avx2(rounds, sink);
#endif
  static_cast<void>(isa);
  return multiply_add_scalar(rounds, sink);
}

double multiply_int8(Isa isa, int64_t rounds, int32_t* sink) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return multiply_int8_avx512(rounds);
  if (isa == Isa::avxvnni) return multiply_int8_avxvnni(rounds);
  if (isa == Isa::avx2) return multiply_int8_avx2(rounds, sink);
#endif
  static_cast<void>(isa);
  return multiply_int8_scalar(rounds, sink);
}

namespace {

Isa isa_of(const char* name) {
  if (!std::strcmp(name, "avx512")) return Isa::avx512;
  if (!std::strcmp(name, "avxvnni")) return Isa::avxvnni;
  return std::strcmp(name, "avx2") ? Isa::scalar : Isa::avx2;
}

}  // namespace
}  // namespace qcore::bench

// For bench/cpu_timing.py, which compiles this file alone.
extern "C" {
uint64_t qcore_probe_read(const char* isa, const void* data, int64_t bytes) {
  return qcore::bench::read_all(qcore::bench::isa_of(isa), data, bytes);
}
double qcore_probe_multiply_int8(const char* isa, int64_t rounds, int32_t* sink) {
  return qcore::bench::multiply_int8(qcore::bench::isa_of(isa), rounds, sink);
}
}
