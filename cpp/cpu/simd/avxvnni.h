// The vocabulary of AVX-VNNI: that of AVX2, with the 256-bit VPDPBUSD and VPDPWSSD. Included inside
// a target region and a namespace. (A test defines QCORE_VNNI256 itself, to run this where only
// AVX512VL has these instructions.)

#ifndef QCORE_VNNI256
#define QCORE_VNNI256(name) _mm256_##name##_avx_epi32
#endif

#include "cpu/simd/avx2.h"

inline constexpr bool kByteDot = true;

// acc + the products of both signed halves, in each lane.
QCORE_INLINE Ints dot_pairs(Ints acc, Ints a, Ints b) {
  return {QCORE_VNNI256(dpwssd)(acc.v, a.v, b.v)};
}
// acc + the products of four unsigned bytes and four signed ones, in each lane.
QCORE_INLINE Ints dot_bytes(Ints acc, Ints a, Ints b) {
  return {QCORE_VNNI256(dpbusd)(acc.v, a.v, b.v)};
}
QCORE_INLINE Ints dot_bytes_broadcast(Ints acc, Ints a, const int32_t* b) {
  return dot_bytes(acc, a, splat(*b));
}
