// What the loops of op "fp8" need from outside, included before a target region is opened: code
// here is compiled for any machine and may be shared.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "cpu/float16.h"
#include "cpu/float8.h"
#include "cpu/float_mode.h"
#include "cpu/fp8_cpu.h"
#include "cpu/quantize_cpu.h"

// The vocabulary passes vectors by value; outside its target region that would have no calling
// convention.
#define QCORE_INLINE inline __attribute__((always_inline))

namespace qcore {

// A 64-byte aligned array whose failure is a null pointer.
class AlignedFloats {
 public:
  explicit AlignedFloats(int64_t count)
      : data_(static_cast<float*>(::operator new[](static_cast<size_t>(count) * sizeof(float),
                                                   std::align_val_t{64}, std::nothrow))) {}
  AlignedFloats(const AlignedFloats&) = delete;
  AlignedFloats& operator=(const AlignedFloats&) = delete;
  ~AlignedFloats() { ::operator delete[](data_, std::align_val_t{64}); }

  float* data() const { return data_; }

 private:
  float* data_;
};

}  // namespace qcore
