// The names of cuda/ptx/hopper.cuh on the CPU. That file says what each one does and includes this
// one.
#pragma once

#include <source_location>

#include "simt/hopper.h"
#include "simt/ptx/base.h"

namespace qcore::ptx {

// ---- Barriers

inline void barrier_init(SharedAddress barrier, uint32_t count, Where where = Where::current()) {
  simt::barrier_init(barrier, count, where);
}
inline void fence_barrier_init() {
  simt::fence_barrier_init();
}
inline void barrier_arrive(SharedAddress barrier, Where where = Where::current()) {
  simt::barrier_arrive(barrier, 0, "barrier_arrive", where);
}
inline void barrier_arrive_expect(SharedAddress barrier, uint32_t bytes,
                                  Where where = Where::current()) {
  simt::barrier_arrive(barrier, bytes, "barrier_arrive_expect", where);
}
inline bool barrier_try_wait(SharedAddress barrier, uint32_t parity,
                             Where where = Where::current()) {
  if (simt::barrier_test(barrier, parity, where)) return true;
  simt::pause(where);
  return false;
}
inline void barrier_wait(SharedAddress barrier, uint32_t parity, Where where = Where::current()) {
  simt::barrier_wait(barrier, parity, where);
}
inline void sync_named(int barrier, int threads, Where where = Where::current()) {
  simt::meet_named(barrier, threads, true, where);
}
inline void arrive_named(int barrier, int threads, Where where = Where::current()) {
  simt::meet_named(barrier, threads, false, where);
}
inline void fence_proxy_async() {
  const simt::Thread& thread = *simt::current_thread;
  thread.block->shared.fence_proxy(static_cast<simt::Accessor>(thread.index));
}
inline void fence_proxy_async_global() {
  simt::hopper().fenced_global.insert(simt::current_thread->index);
}

inline bool elect_one(Where where = Where::current()) {
  return simt::elect_one(where);
}
template <int kRegisters>
void registers_decrease(Where where = Where::current()) {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  simt::set_registers(kRegisters, false, where);
}
template <int kRegisters>
void registers_increase(Where where = Where::current()) {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  simt::set_registers(kRegisters, true, where);
}

// ---- The copy engine

inline void prefetch_tensor_map(const TensorMap& map, Where where = Where::current()) {
  simt::check_tensor_map(map, "prefetch_tensor_map", where);
}
inline void copy_tensor_2d(SharedAddress to, const TensorMap& map, int c0, int c1,
                           SharedAddress barrier, Where where = Where::current()) {
  simt::copy_tensor(to, map, {c0, c1}, barrier, where);
}
inline void copy_tensor_3d(SharedAddress to, const TensorMap& map, int c0, int c1, int c2,
                           SharedAddress barrier, Where where = Where::current()) {
  simt::copy_tensor(to, map, {c0, c1, c2}, barrier, where);
}
inline void store_tensor_2d(const TensorMap& map, int c0, int c1, SharedAddress from,
                            Where where = Where::current()) {
  simt::store_tensor(map, {c0, c1}, from, where);
}
inline void store_tensor_commit() {
  simt::store_tensor_commit();
}
template <int kPending>
void store_tensor_wait_read() {
  simt::store_tensor_wait(kPending);
}
template <int kPending>
void store_tensor_wait() {
  simt::store_tensor_wait(kPending);
}

// ---- Products of a warpgroup

inline void wgmma_fence(Where where = Where::current()) {
  simt::wgmma_fence(where);
}
inline void wgmma_commit(Where where = Where::current()) {
  simt::wgmma_commit(where);
}
template <int kPending>
void wgmma_wait(Where where = Where::current()) {
  simt::wgmma_wait(kPending, where);
}
template <class T, int kCount>
void wgmma_own(T (&d)[kCount], Where where = Where::current()) {
  simt::wgmma_own(d, where);
}

template <class T>
constexpr simt::ElementKind kElementKind = simt::ElementKind::int8;
template <>
inline constexpr simt::ElementKind kElementKind<E4m3> = simt::ElementKind::e4m3;
template <>
inline constexpr simt::ElementKind kElementKind<E5m2> = simt::ElementKind::e5m2;
template <>
inline constexpr simt::ElementKind kElementKind<Half> = simt::ElementKind::half;
template <>
inline constexpr simt::ElementKind kElementKind<Bfloat> = simt::ElementKind::bfloat;

template <class A, class B, int kN>
void wgmma(typename Accumulator<A>::Type (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate,
           Where where = Where::current()) {
  simt::wgmma_product({kElementKind<A>, kElementKind<B>, kN, d, nullptr, a, b, accumulate}, where);
}
template <class A, class B, int kN>
void wgmma(typename Accumulator<A>::Type (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b,
           bool accumulate, Where where = Where::current()) {
  simt::wgmma_product({kElementKind<A>, kElementKind<B>, kN, d, a, 0, b, accumulate}, where);
}

}  // namespace qcore::ptx
