// Code for one instruction set stands between QCORE_BEGIN_TARGET(QCORE_TARGET_AVX512) and
// QCORE_END_TARGET, in a namespace of its own. Headers that other code shares are included before:
// what they define inside a region would be compiled for that instruction set, and the linker might
// keep that copy for every machine.
#pragma once

// Vectors passed by value have no calling convention outside the region, so all that takes or
// returns them is inlined.
#define QCORE_INLINE inline __attribute__((always_inline))
#define QCORE_LAMBDA __attribute__((always_inline))

#define QCORE_TARGET_AVX2 "avx2,fma,f16c"
#define QCORE_TARGET_AVXVNNI "avxvnni," QCORE_TARGET_AVX2
#define QCORE_TARGET_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni," QCORE_TARGET_AVX2

#define QCORE_PRAGMA_TEXT(...) _Pragma(#__VA_ARGS__)
#if defined(__clang__)
#define QCORE_BEGIN_TARGET(features) \
  QCORE_PRAGMA_TEXT(clang attribute push(__attribute__((target(features))), apply_to = function))
#define QCORE_END_TARGET _Pragma("clang attribute pop")
#else
#define QCORE_BEGIN_TARGET(features) \
  _Pragma("GCC push_options") QCORE_PRAGMA_TEXT(GCC target(features))
#define QCORE_END_TARGET _Pragma("GCC pop_options")
#endif
