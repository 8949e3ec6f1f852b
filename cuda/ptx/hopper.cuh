// The instructions that only Hopper (sm_90a) has, one small wrapper each, as base.cuh has the
// others: barriers in shared memory that count threads and bytes, the copy engine (TMA), matrix
// products of a warpgroup (wgmma), and registers that move between warps. tests/simt/ptx/hopper.h
// has the twins.
//
// A warpgroup is four warps in a row, the first one's number a multiple of 4. The "asynchronous
// proxy" is how the copy engine and wgmma see shared memory: what threads stored there, they see
// only after fence_proxy_async() of the thread that stored, and then a meeting point.
#pragma once

#include "ptx/base.cuh"
#include "ptx/tensor_map.h"

namespace qcore::ptx {

template <class A>
struct Accumulator {
  using Type = float;
};
template <>
struct Accumulator<Int8> {
  using Type = int32_t;
};

// ---- Descriptors: what wgmma is told of a matrix in shared memory, whose rows run along K

constexpr uint64_t descriptor_field(uint32_t bytes) {
  return (bytes & 0x3ffffu) >> 4;
}
// Rows of as many bytes as the swizzle, 8 of them one period; `group_bytes` from one 8 rows to the
// next 8. `at` may be moved along K by multiples of 32 bytes inside the row: the permutation
// depends on the address alone. Every period must start at a multiple of swizzle_period().
constexpr uint64_t descriptor(Swizzle swizzle, SharedAddress at, uint32_t group_bytes) {
  const uint64_t mode = swizzle == Swizzle::bytes128 ? 1 : swizzle == Swizzle::bytes64 ? 2 : 3;
  return descriptor_field(at) | uint64_t{1} << 16 | descriptor_field(group_bytes) << 32 |
         mode << 62;
}
// Without a permutation: blocks of 8 rows of 16 bytes; from one to its neighbour along K, and along
// the rows.
constexpr uint64_t descriptor_plain(SharedAddress at, uint32_t k_bytes, uint32_t group_bytes) {
  return descriptor_field(at) | descriptor_field(k_bytes) << 16 |
         descriptor_field(group_bytes) << 32;
}
// The same matrix `bytes` further on.
constexpr uint64_t descriptor_advance(uint64_t descriptor, uint32_t bytes) {
  return descriptor + (bytes >> 4);
}

}  // namespace qcore::ptx

#if defined(QCORE_SIMT)

#include "simt/ptx/hopper.h"

#else

namespace qcore::ptx {

// ---- Barriers in shared memory: 8 bytes each, aligned to 8
//
// A phase ends when `count` arrivals have come and as many bytes as were announced; then the next
// one begins. Phases have parities 0, 1, 0, ... What threads did before they arrived is seen by
// those who waited for that phase.

QCORE_DEVICE void barrier_init(SharedAddress barrier, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// Makes this thread's barrier_init visible to the copy engine.
QCORE_DEVICE void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
QCORE_DEVICE void barrier_arrive(SharedAddress barrier) {
  asm volatile(
      "{\n.reg .b64 state;\n"
      "mbarrier.arrive.shared::cta.b64 state, [%0];\n}" ::"r"(barrier)
      : "memory");
}
// Announces bytes that copies will bring, and arrives.
QCORE_DEVICE void barrier_arrive_expect(SharedAddress barrier, uint32_t bytes) {
  asm volatile(
      "{\n.reg .b64 state;\n"
      "mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;\n}" ::"r"(barrier),
      "r"(bytes)
      : "memory");
}
// Has the phase of this parity ended? True also for the phase before the first one, of parity 1.
QCORE_DEVICE bool barrier_try_wait(SharedAddress barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n.reg .pred done;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n}"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}
QCORE_DEVICE void barrier_wait(SharedAddress barrier, uint32_t parity) {
  while (!barrier_try_wait(barrier, parity)) {
  }
}

// Numbers 1 .. 15; `threads` of the block, whole warps, meet there. 0 is sync_block's.
QCORE_DEVICE void sync_named(int barrier, int threads) {
  asm volatile("barrier.sync.aligned %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
// Counts as one of those who meet, and goes on.
QCORE_DEVICE void arrive_named(int barrier, int threads) {
  asm volatile("barrier.arrive.aligned %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// What this thread stored to shared memory is there for the copy engine and for wgmma.
QCORE_DEVICE void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// What this launch stored to global memory, and this thread knows of, is there for its copies.
QCORE_DEVICE void fence_proxy_async_global() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

// True in one lane of a whole warp, the same one each time.
QCORE_DEVICE bool elect_one() {
  uint32_t chosen;
  asm volatile(
      "{\n.reg .pred chosen;\n"
      "elect.sync _|chosen, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, chosen;\n}"
      : "=r"(chosen));
  return chosen != 0;
}

// Registers of each thread of a warpgroup, a multiple of 8 in 24 .. 240: gives some back, or waits
// until so many are free.
template <int kRegisters>
QCORE_DEVICE void registers_decrease() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
QCORE_DEVICE void registers_increase() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// ---- The copy engine: called by one thread. Coordinates in elements, the contiguous dimension's
// first; boxes in shared memory start at a multiple of swizzle_period().

QCORE_DEVICE void prefetch_tensor_map(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
// Brings one box, whose bytes count towards the barrier's phase.
QCORE_DEVICE void copy_tensor_2d(SharedAddress to, const TensorMap& map, int c0, int c1,
                                 SharedAddress barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(&map), "r"(c0), "r"(c1), "r"(barrier)
      : "memory");
}
QCORE_DEVICE void copy_tensor_3d(SharedAddress to, const TensorMap& map, int c0, int c1, int c2,
                                 SharedAddress barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
      "l"(&map), "r"(c0), "r"(c1), "r"(c2), "r"(barrier)
      : "memory");
}
// Takes one box to global memory.
QCORE_DEVICE void store_tensor_2d(const TensorMap& map, int c0, int c1, SharedAddress from) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map),
      "r"(c0), "r"(c1), "r"(from)
      : "memory");
}
// Closes the group of this thread's stores since the last one.
QCORE_DEVICE void store_tensor_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Waits until at most kPending of this thread's newest groups still read shared memory.
template <int kPending>
QCORE_DEVICE void store_tensor_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
// ... are still under way.
template <int kPending>
QCORE_DEVICE void store_tensor_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- Matrix products of a warpgroup: all of its threads together

// Between other accesses to registers and the products that use them.
QCORE_DEVICE void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
// Closes the group of products since the last one.
QCORE_DEVICE void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most kPending of the newest groups are under way.
template <int kPending>
QCORE_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Sums may be used otherwise from here on, or from here on no more: stands after the wait, and
// before the first product. Keeps the compiler from moving their use past it.
template <int kCount>
QCORE_DEVICE void wgmma_own(float (&d)[kCount]) {
  QCORE_UNROLL
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int kCount>
QCORE_DEVICE void wgmma_own(int32_t (&d)[kCount]) {
  QCORE_UNROLL
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

// d (+)= a * b: [64, kN] of A [64, 32 bytes] and B [kN, 32 bytes], both along K; fragments.h says
// who holds what of d, and of A in registers. Not `accumulate`: d is overwritten. One group of
// instructions may name a `d` again and again, in order.
template <class A, class B, int kN>
struct Wgmma;

// Numbers of operands as text, ten at a time.
#define QCORE_TEN(t)                                                                               \
  "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t \
  "9, "
#define QCORE_SUMS_4 "%0, %1, %2, %3"
#define QCORE_SUMS_8 QCORE_SUMS_4 ", %4, %5, %6, %7"
#define QCORE_SUMS_16 QCORE_TEN() "%10, %11, %12, %13, %14, %15"
#define QCORE_SUMS_32 QCORE_TEN() QCORE_TEN(1) QCORE_TEN(2) "%30, %31"
// Formatting of these never settles.
// clang-format off
#define QCORE_SUMS_64 \
  QCORE_TEN() QCORE_TEN(1) QCORE_TEN(2) QCORE_TEN(3) QCORE_TEN(4) QCORE_TEN(5) \
  "%60, %61, %62, %63"
#define QCORE_SUMS_128 \
  QCORE_TEN() QCORE_TEN(1) QCORE_TEN(2) QCORE_TEN(3) QCORE_TEN(4) QCORE_TEN(5) \
  QCORE_TEN(6) QCORE_TEN(7) QCORE_TEN(8) QCORE_TEN(9) QCORE_TEN(10) QCORE_TEN(11) \
  "%120, %121, %122, %123, %124, %125, %126, %127"
// clang-format on

// The operands themselves.
#define QCORE_HOLD_4(c, i) c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3])
#define QCORE_HOLD_8(c, i) QCORE_HOLD_4(c, i), QCORE_HOLD_4(c, i + 4)
#define QCORE_HOLD_16(c, i) QCORE_HOLD_8(c, i), QCORE_HOLD_8(c, i + 8)
#define QCORE_HOLD_32(c, i) QCORE_HOLD_16(c, i), QCORE_HOLD_16(c, i + 16)
#define QCORE_HOLD_64(c, i) QCORE_HOLD_32(c, i), QCORE_HOLD_32(c, i + 32)
#define QCORE_HOLD_128(c, i) QCORE_HOLD_64(c, i), QCORE_HOLD_64(c, i + 64)

// For every kN: how many sums a thread holds, and the numbers of the operands behind them.
#define QCORE_WGMMA_SIZES(X, ...)                                   \
  X(8, 4, "%4", "%5", "%6", "%7", "%8", "%9", __VA_ARGS__)          \
  X(16, 8, "%8", "%9", "%10", "%11", "%12", "%13", __VA_ARGS__)     \
  X(32, 16, "%16", "%17", "%18", "%19", "%20", "%21", __VA_ARGS__)  \
  X(64, 32, "%32", "%33", "%34", "%35", "%36", "%37", __VA_ARGS__)  \
  X(128, 64, "%64", "%65", "%66", "%67", "%68", "%69", __VA_ARGS__) \
  X(256, 128, "%128", "%129", "%130", "%131", "%132", "%133", __VA_ARGS__)

#define QCORE_WGMMA(n, sums, o0, o1, o2, o3, o4, o5, A, B, number, hold, shape, types, tail,  \
                    tail_registers)                                                           \
  template <>                                                                                 \
  struct Wgmma<A, B, n> {                                                                     \
    QCORE_DEVICE static void run(number (&d)[sums], uint64_t a, uint64_t b, int accumulate) { \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " o2                                     \
                   ", 0;\n"                                                                   \
                   "wgmma.mma_async.sync.aligned.m64n" #n shape types " {" QCORE_SUMS_##sums  \
                   "}, " o0 ", " o1 ", p" tail ";\n}"                                         \
                   : QCORE_HOLD_##sums(hold, 0)                                               \
                   : "l"(a), "l"(b), "r"(accumulate)                                          \
                   : "memory");                                                               \
    }                                                                                         \
    QCORE_DEVICE static void run(number (&d)[sums], const uint32_t (&a)[4], uint64_t b,       \
                                 int accumulate) {                                            \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " o5                                     \
                   ", 0;\n"                                                                   \
                   "wgmma.mma_async.sync.aligned.m64n" #n shape types " {" QCORE_SUMS_##sums  \
                   "}, {" o0 ", " o1 ", " o2 ", " o3 "}, " o4 ", p" tail_registers ";\n}"     \
                   : QCORE_HOLD_##sums(hold, 0)                                               \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate)      \
                   : "memory");                                                               \
    }                                                                                         \
  };
#define QCORE_HOLD_NUMBER(x) "+r"(x)
#define QCORE_HOLD_FLOAT(x) "+f"(x)
#define QCORE_WGMMA_FP8(A, B, types) \
  QCORE_WGMMA_SIZES(QCORE_WGMMA, A, B, float, QCORE_HOLD_FLOAT, "k32", types, ", 1, 1", ", 1, 1")
#define QCORE_WGMMA_HALF(T, types)                                                            \
  QCORE_WGMMA_SIZES(QCORE_WGMMA, T, T, float, QCORE_HOLD_FLOAT, "k16", types, ", 1, 1, 0, 0", \
                    ", 1, 1, 0")
QCORE_WGMMA_SIZES(QCORE_WGMMA, Int8, Int8, int32_t, QCORE_HOLD_NUMBER, "k32", ".s32.s8.s8", "", "")
QCORE_WGMMA_FP8(E4m3, E4m3, ".f32.e4m3.e4m3")
QCORE_WGMMA_FP8(E4m3, E5m2, ".f32.e4m3.e5m2")
QCORE_WGMMA_FP8(E5m2, E4m3, ".f32.e5m2.e4m3")
QCORE_WGMMA_FP8(E5m2, E5m2, ".f32.e5m2.e5m2")
QCORE_WGMMA_HALF(Half, ".f32.f16.f16")
QCORE_WGMMA_HALF(Bfloat, ".f32.bf16.bf16")
#undef QCORE_WGMMA
#undef QCORE_WGMMA_FP8
#undef QCORE_WGMMA_HALF
#undef QCORE_WGMMA_SIZES
#undef QCORE_HOLD_NUMBER
#undef QCORE_HOLD_FLOAT

// A in shared memory (its descriptor), or in registers.
template <class A, class B, int kN>
QCORE_DEVICE void wgmma(typename Accumulator<A>::Type (&d)[kN / 2], uint64_t a, uint64_t b,
                        bool accumulate) {
  Wgmma<A, B, kN>::run(d, a, b, accumulate);
}
template <class A, class B, int kN>
QCORE_DEVICE void wgmma(typename Accumulator<A>::Type (&d)[kN / 2], const uint32_t (&a)[4],
                        uint64_t b, bool accumulate) {
  Wgmma<A, B, kN>::run(d, a, b, accumulate);
}

}  // namespace qcore::ptx

#endif
