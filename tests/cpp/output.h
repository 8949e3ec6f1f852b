// What a gemm writes to, and how close to the exact value it should come: shared by the tests of
// all gemms.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "numerics/float16.h"

namespace qcore::testing {

// y with guard bytes on both sides, filled with NaN.
class Output {
 public:
  Output(DType dtype, int64_t count)
      : dtype_(dtype),
        bytes_(static_cast<size_t>(count * size_of(dtype)) + 2 * kGuard, char(0xff)) {
    std::memset(bytes_.data(), 0x5a, kGuard);
    std::memset(bytes_.data() + bytes_.size() - kGuard, 0x5a, kGuard);
  }
  void* data() { return bytes_.data() + kGuard; }
  float get(int64_t i) const { return load_scalar(dtype_, bytes_.data() + kGuard, i); }
  bool guards_hold() const {
    for (size_t i = 0; i < kGuard; ++i) {
      if (bytes_[i] != 0x5a || bytes_[bytes_.size() - 1 - i] != 0x5a) return false;
    }
    return true;
  }
  bool operator==(const Output& other) const { return bytes_ == other.bytes_; }
  // Whether `count` elements from `from` are the first elements of `other`, bit for bit.
  bool holds(int64_t from, const Output& other, int64_t count) const {
    const size_t size = static_cast<size_t>(size_of(dtype_));
    return std::memcmp(bytes_.data() + kGuard + static_cast<size_t>(from) * size,
                       other.bytes_.data() + kGuard, static_cast<size_t>(count) * size) == 0;
  }

 private:
  static constexpr size_t kGuard = 64;
  DType dtype_;
  std::vector<char> bytes_;
};

// Half the distance between neighbours of |y| in the dtype.
inline double half_step(DType dtype, double y) {
  if (dtype == DType::f32) return std::abs(y) * 0x1p-24;
  if (dtype == DType::bf16) return std::abs(y) * 0x1p-8;
  return std::max(std::abs(y) * 0x1p-11, 0x1p-25);
}

}  // namespace qcore::testing
