// What the loops of op "int8" need from outside, included before a target region is opened: code
// here is compiled for any machine and may be shared.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "cpu/float16.h"
#include "cpu/float_mode.h"
#include "cpu/int8_cpu.h"
#include "cpu/quantize_cpu.h"

// The vocabulary passes vectors by value; outside its target region that would have no calling
// convention.
#define QCORE_INLINE inline __attribute__((always_inline))

namespace qcore {

// A 64-byte aligned array whose failure is a null pointer.
class AlignedBytes {
 public:
  explicit AlignedBytes(int64_t count)
      : data_(static_cast<uint8_t*>(
            ::operator new[](static_cast<size_t>(count), std::align_val_t{64}, std::nothrow))) {}
  AlignedBytes(const AlignedBytes&) = delete;
  AlignedBytes& operator=(const AlignedBytes&) = delete;
  ~AlignedBytes() { ::operator delete[](data_, std::align_val_t{64}); }

  uint8_t* data() const { return data_; }

 private:
  uint8_t* data_;
};

}  // namespace qcore
