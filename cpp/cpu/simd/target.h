// Code for one instruction set stands between QCORE_BEGIN_TARGET(QCORE_TARGET_AVX512) and
// QCORE_END_TARGET, in a namespace of its own. Headers that other code shares are included before:
// what they define inside a region would be compiled for that instruction set, and the linker might
// keep that copy for every machine.
//
// Inside the region and the namespace comes the vocabulary of the instruction set, simd/<isa>.h:
// the same types and words from each, so that loops are written once and name no processor.
//   Floats, Ints        a vector of kLanes numbers of 32 bits
//   Floats16, Ints16    16 of them, as one vector or as a pair of halves (lanes16.h)
// A vocabulary may say more than others, where it has instructions for it: kByteDot is whether it
// has dot_bytes(), which multiplies unsigned by signed bytes. What an op alone needs of an
// instruction set is in a short file of its own, <op>/<isa>.h. NEON would be simd/neon.h (4 lanes),
// a line QCORE_TARGET_NEON here, and <op>/neon.cpp for each op that is to use it.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

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
