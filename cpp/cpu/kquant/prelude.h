// What loops.h needs from outside, included before a target region is opened: code here is compiled
// for any machine and may be shared.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <string>
#include <utility>

#include "cpu/block16.h"
#include "cpu/float_mode.h"
#include "cpu/kquant_cpu.h"
#include "formats/blocks/blocks.h"

// The vocabulary passes vectors by value; outside its target region that would have no calling
// convention.
#define QCORE_INLINE inline __attribute__((always_inline))
#define QCORE_LAMBDA __attribute__((always_inline))

namespace qcore {

// Tiles of all heights are unrolled for all formats, which takes compilers half a minute; with
// sanitizers it would be many, so they get low tiles.
#if defined(__SANITIZE_ADDRESS__)
constexpr int tile_rows(int) {
  return 2;
}
#else
constexpr int tile_rows(int rows) {
  return rows;
}
#endif

// A 64-byte aligned array whose failure is a null pointer.
class AlignedWords {
 public:
  explicit AlignedWords(int64_t count)
      : data_(static_cast<int32_t*>(::operator new[](static_cast<size_t>(count) * sizeof(int32_t),
                                                     std::align_val_t{64}, std::nothrow))) {}
  AlignedWords(const AlignedWords&) = delete;
  AlignedWords& operator=(const AlignedWords&) = delete;
  ~AlignedWords() { ::operator delete[](data_, std::align_val_t{64}); }

  int32_t* data() const { return data_; }

 private:
  int32_t* data_;
};

}  // namespace qcore
