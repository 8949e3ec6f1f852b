// Every instruction that a kernel uses beyond plain arithmetic on its own registers, one small
// wrapper each. Kernels touch memory and other threads through these names only, so the same kernel
// source also runs on the CPU: with QCORE_SIMT defined, tests/simt/ptx/base.h gives every name a
// twin that executes one fiber per thread and reports races, stray accesses and deadlocks.
//
// Shared memory is addressed by 32-bit numbers of bytes from shared_base() on, the start of the
// block's dynamic shared memory, which is aligned to 1 KB.
#pragma once

#include <cstdint>

namespace qcore::ptx {

// 16 bytes, the widest access, and half of it.
struct alignas(16) Vec16 {
  uint32_t word[4];
};
struct alignas(8) Vec8 {
  uint32_t word[2];
};

// Element types of matrices; their values travel as bits, two to a 32-bit register.
struct Half {};
struct Bfloat {};
// And four to a register: integers, and the two kinds of FP8.
struct Int8 {};
struct E4m3 {};
struct E5m2 {};

using SharedAddress = uint32_t;

}  // namespace qcore::ptx

#if defined(QCORE_SIMT)

#define QCORE_DEVICE inline
#define QCORE_UNROLL
#define QCORE_NO_UNROLL
#define QCORE_UNROLL_BY(count)
#include "simt/ptx/base.h"

#else

#define QCORE_DEVICE __device__ __forceinline__
// Before a loop over registers: an array that is indexed at run time would live in local memory.
#define QCORE_UNROLL _Pragma("unroll")
// Before a loop whose rounds shall not overlap, because their registers would add up.
#define QCORE_NO_UNROLL _Pragma("unroll 1")
// Before one of which `count` rounds may: a name or a number.
#define QCORE_UNROLL_BY(count) QCORE_PRAGMA(unroll count)
#define QCORE_PRAGMA(text) _Pragma(#text)

namespace qcore::ptx {

// ---- Who is asking

// Volatile, so that what is computed from it anew late in a kernel is not kept in registers until
// then.
QCORE_DEVICE int thread_index() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}
QCORE_DEVICE int block_index() {
  int index;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(index));
  return index;
}
QCORE_DEVICE int block_count() {
  return static_cast<int>(gridDim.x);
}

// ---- Meeting points

// All threads of the block. Orders shared and global memory among them.
QCORE_DEVICE void sync_block() {
  __syncthreads();
}
// All lanes of the warp. Orders memory among them.
QCORE_DEVICE void sync_warp() {
  __syncwarp();
}
// The value of lane (this lane XOR mask).
QCORE_DEVICE float shuffle_xor(float value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

// ---- Memory

// The value, computed once and kept.
QCORE_DEVICE uint32_t keep(uint32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}

QCORE_DEVICE SharedAddress shared_base() {
  extern __shared__ __align__(1024) char qcore_shared_memory[];
  return keep(static_cast<SharedAddress>(__cvta_generic_to_shared(qcore_shared_memory)));
}

// T is an unsigned integer, float, Vec8 or Vec16; addresses are aligned to its size.
template <class T>
QCORE_DEVICE T load_shared(SharedAddress at);
template <>
QCORE_DEVICE uint16_t load_shared<uint16_t>(SharedAddress at) {
  uint16_t value;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(value) : "r"(at) : "memory");
  return value;
}
template <>
QCORE_DEVICE uint32_t load_shared<uint32_t>(SharedAddress at) {
  uint32_t value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(at) : "memory");
  return value;
}
template <>
QCORE_DEVICE float load_shared<float>(SharedAddress at) {
  return __uint_as_float(load_shared<uint32_t>(at));
}
template <>
QCORE_DEVICE Vec16 load_shared<Vec16>(SharedAddress at) {
  Vec16 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "r"(at)
               : "memory");
  return v;
}
template <>
QCORE_DEVICE Vec8 load_shared<Vec8>(SharedAddress at) {
  Vec8 v;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];"
               : "=r"(v.word[0]), "=r"(v.word[1])
               : "r"(at)
               : "memory");
  return v;
}
QCORE_DEVICE void store_shared(SharedAddress at, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(value) : "memory");
}
// An object made of bytes, at any address, that nobody writes while the reference lives. What is
// used of it is loaded a byte at a time.
template <class T>
QCORE_DEVICE const T& shared_object(SharedAddress at) {
  static_assert(alignof(T) == 1);
  return *static_cast<const T*>(__cvta_shared_to_generic(at));
}

template <class T>
QCORE_DEVICE T load_global(const T* from) {
  return *from;
}
template <class T>
QCORE_DEVICE void store_global(T* to, T value) {
  *to = value;
}
// As shared_object.
template <class T>
QCORE_DEVICE const T& global_object(const void* at) {
  static_assert(alignof(T) == 1);
  return *static_cast<const T*>(at);
}
// Makes an object there: calls write(object), which writes all of its bytes, some maybe more than
// once. Nobody else looks meanwhile.
template <class T, class Write>
QCORE_DEVICE void write_global_object(void* at, const Write& write) {
  static_assert(alignof(T) == 1);
  write(*static_cast<T*>(at));
}
template <>
QCORE_DEVICE void store_global<Vec16>(Vec16* to, Vec16 v) {
  *reinterpret_cast<uint4*>(to) = make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]);
}

// Copies `bytes` (0 .. 16) bytes of global memory and zeros after them, 16 bytes in all, without
// passing through registers. Both addresses are multiples of 16. The bytes are there for this
// thread after the matching copy_async_wait, for others after a meeting point that follows it.
QCORE_DEVICE void copy_async_16(SharedAddress to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
}
// Closes the group of this thread's copies since the last commit; a group may be empty.
QCORE_DEVICE void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most kPending of this thread's newest groups are still under way.
template <int kPending>
QCORE_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- Matrices: executed by a whole warp together (fragments.h says who holds what)

// Four 8x8 matrices of 16-bit elements; lane 8 j + r names the 16 bytes of row r of matrix j.
QCORE_DEVICE void ldmatrix_x4(uint32_t (&r)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

// d += a * b, accumulated in fp32.
template <class T>
QCORE_DEVICE void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <>
QCORE_DEVICE void mma_16x8x16<Half>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
QCORE_DEVICE void mma_16x8x16<Bfloat>(float (&d)[4], const uint32_t (&a)[4],
                                      const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- Bits and packed arithmetic

// (a & mask) | bits in one instruction.
template <uint32_t kMask, uint32_t kBits>
QCORE_DEVICE uint32_t and_or(uint32_t a) {
  uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(r) : "r"(a), "n"(kMask), "n"(kBits));
  return r;
}
// Bytes of {b, a} chosen by the nibbles of the selector: 0 .. 3 are those of a, 4 .. 7 those of b.
template <uint32_t kSelector>
QCORE_DEVICE uint32_t permute_bytes(uint32_t a, uint32_t b) {
  return __byte_perm(a, b, kSelector);
}
// Likewise, by the low four nibbles of a selector whose top bits are 0.
QCORE_DEVICE uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(selector));
  return r;
}

// a * b, rounded, also where a sum follows.
QCORE_DEVICE float multiply(float a, float b) {
  return __fmul_rn(a, b);
}

// a * b + c of two numbers at once, rounded once.
template <class T>
QCORE_DEVICE uint32_t fma2(uint32_t a, uint32_t b, uint32_t c);
template <>
QCORE_DEVICE uint32_t fma2<Half>(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
template <>
QCORE_DEVICE uint32_t fma2<Bfloat>(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
QCORE_DEVICE uint32_t add2_half(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

QCORE_DEVICE float float_from_bits(uint32_t bits) {
  return __uint_as_float(bits);
}
QCORE_DEVICE uint32_t bits_of(float value) {
  return __float_as_uint(value);
}

// One 16-bit number, in the low half of its argument, as fp32; exact.
template <class T>
QCORE_DEVICE float to_float(uint32_t bits);
template <>
QCORE_DEVICE float to_float<Half>(uint32_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<uint16_t>(bits)));
  return value;
}
template <>
QCORE_DEVICE float to_float<Bfloat>(uint32_t bits) {
  return __uint_as_float(bits << 16);
}

// {low, high} as two 16-bit numbers, rounded to nearest even.
template <class T>
QCORE_DEVICE uint32_t pack2(float low, float high);
template <>
QCORE_DEVICE uint32_t pack2<Half>(float low, float high) {
  uint32_t d;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}
template <>
QCORE_DEVICE uint32_t pack2<Bfloat>(float low, float high) {
  uint32_t d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}

}  // namespace qcore::ptx

#endif
