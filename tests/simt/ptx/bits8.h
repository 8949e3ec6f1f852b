// The names of cuda/ptx/bits8.cuh on the CPU; see base.h.
#pragma once

#include <cmath>

#include "simt/float8.h"
#include "simt/ptx/base.h"

namespace qcore::simt {

// The running thread waits for all threads of the grid, whose blocks must all be resident.
void meet_grid(std::source_location where);

extern const Collective kShuffleXorInt, kMmaInt8;
extern const Collective kMmaFp8[2][2];  // by the formats of a and b: e4m3, e5m2

// While one lives, FP8 products are summed as coarsely as hardware has been seen to do it: all
// terms of an instruction, and the sum so far, are cut to a multiple of 2^-13 of the power of two
// in the largest of them. Otherwise they are exact, so that results can be compared closely.
class CoarseFp8 {
 public:
  CoarseFp8() { active = true; }
  ~CoarseFp8() { active = false; }
  CoarseFp8(const CoarseFp8&) = delete;
  CoarseFp8& operator=(const CoarseFp8&) = delete;

  static inline bool active = false;
};

}  // namespace qcore::simt

namespace qcore::ptx {

inline void sync_grid(Where where = Where::current()) {
  simt::meet_grid(where);
}
inline int shuffle_xor(int value, int mask, Where where = Where::current()) {
  int result;
  simt::meet_warp(simt::kShuffleXorInt, {&result, &value, nullptr, static_cast<uint32_t>(mask)},
                  where);
  return result;
}

inline void mma_16x8x32(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                        Where where = Where::current()) {
  simt::meet_warp(simt::kMmaInt8, {d, a, b}, where);
}
template <class A, class B>
void mma_16x8x32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                 Where where = Where::current()) {
  constexpr int kA = std::is_same_v<A, E5m2>, kB = std::is_same_v<B, E5m2>;
  static_assert((kA || std::is_same_v<A, E4m3>) && (kB || std::is_same_v<B, E4m3>));
  simt::meet_warp(simt::kMmaFp8[kA][kB], {d, a, b}, where);
}

inline int32_t add_bytes(uint32_t bytes, int32_t sum) {
  for (int i = 0; i < 4; ++i) sum += static_cast<int8_t>(bytes >> (8 * i));
  return sum;
}

inline float fma(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float divide(float a, float b) {
  return a / b;
}
inline float square_root(float a) {
  return std::sqrt(a);
}
inline float to_float(int64_t value) {
  return static_cast<float>(value);
}
inline float minimum(float a, float b) {
  return std::fmin(a, b);
}
inline float maximum(float a, float b) {
  return std::fmax(a, b);
}

template <class T>
uint16_t pack2_fp8(float low, float high) {
  const simt::Float8Format& f = std::is_same_v<T, E5m2> ? simt::kE5m2 : simt::kE4m3;
  return static_cast<uint16_t>(simt::float8_nearest(f, low) | simt::float8_nearest(f, high) << 8);
}

}  // namespace qcore::ptx
