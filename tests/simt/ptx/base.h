// The names of cuda/ptx/base.cuh on the CPU. That file says what each one does and includes this
// one; here is what the emulation adds: checks, and a place in the source for messages.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#include "numerics/float16.h"
#include "simt/arithmetic.h"
#include "simt/global_memory.h"
#include "simt/thread.h"

namespace qcore::ptx {

using Where = std::source_location;

// ---- Who is asking

inline SharedAddress shared_base() {
  return 0;
}
inline int thread_index() {
  return simt::current_thread->index;
}
inline int block_index() {
  return simt::current_thread->block->index;
}
inline int block_count() {
  return simt::grid_of_launch();
}

// ---- Meeting points

inline void sync_block(Where where = Where::current()) {
  simt::meet_block(where);
}
inline void sync_warp(Where where = Where::current()) {
  simt::meet_warp(simt::kSyncWarp, {}, where);
}
inline float shuffle_xor(float value, int mask, Where where = Where::current()) {
  float result;
  simt::meet_warp(simt::kShuffleXor, {&result, &value, nullptr, static_cast<uint32_t>(mask)},
                  where);
  return result;
}

// ---- Memory

template <class T>
T load_shared(SharedAddress at, Where where = Where::current()) {
  static_assert(std::has_single_bit(sizeof(T)) && sizeof(T) <= 16, "one instruction");
  T value;
  const simt::Thread& thread = *simt::current_thread;
  thread.block->shared.read(at, sizeof(T), static_cast<simt::Accessor>(thread.index), &value,
                            {"load_shared", where});
  return value;
}
template <class T>
void store_shared(SharedAddress at, T value, Where where = Where::current()) {
  static_assert(std::has_single_bit(sizeof(T)) && sizeof(T) <= 16, "one instruction");
  const simt::Thread& thread = *simt::current_thread;
  thread.block->shared.write(at, sizeof(T), static_cast<simt::Accessor>(thread.index), &value,
                             {"store_shared", where});
}

template <class T>
T shared_object(SharedAddress at, Where where = Where::current()) {
  static_assert(alignof(T) == 1 && std::is_trivially_copyable_v<T>);
  unsigned char bytes[sizeof(T)];
  const simt::Thread& thread = *simt::current_thread;
  for (uint32_t i = 0; i < sizeof(T); ++i) {
    thread.block->shared.read(at + i, 1, static_cast<simt::Accessor>(thread.index), bytes + i,
                              {"shared_object", where});
  }
  return std::bit_cast<T>(bytes);
}

template <class T>
T load_global(const T* from, Where where = Where::current()) {
  simt::check_global_alignment(from, sizeof(T), "load_global", where);
  simt::check_global_load(from, sizeof(T), "load_global", where);
  T value;
  std::memcpy(&value, static_cast<const void*>(from), sizeof(T));
  return value;
}
template <class T>
void store_global(T* to, T value, Where where = Where::current()) {
  simt::check_global_alignment(to, sizeof(T), "store_global", where);
  simt::check_global_store(to, sizeof(T), "store_global", where);
  std::memcpy(static_cast<void*>(to), &value, sizeof(T));
}

template <class T>
T global_object(const void* at, Where where = Where::current()) {
  static_assert(alignof(T) == 1 && std::is_trivially_copyable_v<T>);
  simt::check_global_load(at, sizeof(T), "global_object", where);
  T object;
  std::memcpy(&object, at, sizeof(T));
  return object;
}
template <class T, class Write>
void write_global_object(void* at, const Write& write, Where where = Where::current()) {
  static_assert(alignof(T) == 1 && std::is_trivially_copyable_v<T>);
  T object;
  std::memset(static_cast<void*>(&object), 0x5a, sizeof(T));
  write(object);
  simt::check_global_store(at, sizeof(T), "write_global_object", where);
  std::memcpy(at, &object, sizeof(T));
}

// Global memory is read at once. Its bytes reach shared memory at the wait, the latest moment that
// the hardware may choose; until then nobody may touch their place.
inline void copy_async_16(SharedAddress to, const void* from, int bytes,
                          Where where = Where::current()) {
  constexpr const char* kName = "copy_async_16";
  if (bytes < 0 || bytes > 16) {
    simt::fault(std::string(kName) + " of " + std::to_string(bytes) + " bytes", where);
  }
  simt::check_global_alignment(from, 16, kName, where);
  simt::Thread& thread = *simt::current_thread;
  simt::CopyQueue::Copy copy{to, {}};
  if (bytes > 0) {
    simt::check_global_load(from, static_cast<size_t>(bytes), kName, where);
    std::memcpy(copy.bytes, from, static_cast<size_t>(bytes));
  }
  thread.block->shared.take_off(to, static_cast<simt::Accessor>(thread.index), {kName, where});
  thread.copies.push(copy);
}
inline void copy_async_commit() {
  simt::current_thread->copies.commit();
}
template <int kPending>
void copy_async_wait() {
  simt::Thread& thread = *simt::current_thread;
  thread.copies.wait(kPending, [&](const simt::CopyQueue::Copy& copy) {
    thread.block->shared.land(copy.to, static_cast<simt::Accessor>(thread.index), copy.bytes);
  });
}

// ---- Matrices

inline void ldmatrix_x4(uint32_t (&r)[4], SharedAddress row, Where where = Where::current()) {
  simt::current_thread->block->shared.check_address(row, 16, {"ldmatrix_x4", where});
  simt::meet_warp(simt::kLdmatrixX4, {r, nullptr, nullptr, row}, where);
}

template <class T>
void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                 Where where = Where::current());
template <>
inline void mma_16x8x16<Half>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                              Where where) {
  simt::meet_warp(simt::kMmaHalf, {d, a, b}, where);
}
template <>
inline void mma_16x8x16<Bfloat>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                Where where) {
  simt::meet_warp(simt::kMmaBfloat, {d, a, b}, where);
}

// ---- Bits and packed arithmetic

template <uint32_t kMask, uint32_t kBits>
uint32_t and_or(uint32_t a) {
  return (a & kMask) | kBits;
}
inline uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector,
                              Where where = Where::current()) {
  if (selector & 0x8888u) simt::fault("permute_bytes: the selector replicates signs", where);
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  uint32_t r = 0;
  for (int i = 0; i < 4; ++i) {
    r |= static_cast<uint32_t>(bytes >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
  }
  return r;
}
template <uint32_t kSelector>
uint32_t permute_bytes(uint32_t a, uint32_t b) {
  static_assert((kSelector & ~0x7777u) == 0, "no sign replication");
  return permute_bytes(a, b, kSelector);
}

inline float multiply(float a, float b) {
  const volatile float product = a * b;  // so that no compiler fuses it into a sum
  return product;
}

template <class T>
uint32_t fma2(uint32_t a, uint32_t b, uint32_t c);
template <>
inline uint32_t fma2<Half>(uint32_t a, uint32_t b, uint32_t c) {
  return simt::fma_half(a & 0xffffu, b & 0xffffu, c & 0xffffu) |
         simt::fma_half(a >> 16, b >> 16, c >> 16) << 16;
}
template <>
inline uint32_t fma2<Bfloat>(uint32_t a, uint32_t b, uint32_t c) {
  return simt::fma_bfloat(a & 0xffffu, b & 0xffffu, c & 0xffffu) |
         simt::fma_bfloat(a >> 16, b >> 16, c >> 16) << 16;
}
inline uint32_t add2_half(uint32_t a, uint32_t b) {
  constexpr uint32_t kOne = 0x3c00;
  return simt::fma_half(a & 0xffffu, kOne, b & 0xffffu) | simt::fma_half(a >> 16, kOne, b >> 16)
                                                              << 16;
}

inline uint32_t keep(uint32_t value) {
  return value;
}
inline float float_from_bits(uint32_t bits) {
  return std::bit_cast<float>(bits);
}
inline uint32_t bits_of(float value) {
  return std::bit_cast<uint32_t>(value);
}

template <class T>
float to_float(uint32_t bits);
template <>
inline float to_float<Half>(uint32_t bits) {
  return f32_from_f16(static_cast<uint16_t>(bits));
}
template <>
inline float to_float<Bfloat>(uint32_t bits) {
  return f32_from_bf16(static_cast<uint16_t>(bits));
}

template <class T>
uint32_t pack2(float low, float high);
template <>
inline uint32_t pack2<Half>(float low, float high) {
  return f16_from_f32(low) | static_cast<uint32_t>(f16_from_f32(high)) << 16;
}
template <>
inline uint32_t pack2<Bfloat>(float low, float high) {
  return bf16_from_f32(low) | static_cast<uint32_t>(bf16_from_f32(high)) << 16;
}

}  // namespace qcore::ptx
