#pragma once

#include <cstdint>
#include <new>

namespace qcore {

// An array that starts a cache line; not initialised. One that could not be had is a null pointer.
template <class T>
class AlignedArray {
 public:
  explicit AlignedArray(int64_t count)
      : data_(static_cast<T*>(::operator new[](static_cast<size_t>(count) * sizeof(T),
                                               std::align_val_t{64}, std::nothrow))) {}
  AlignedArray(const AlignedArray&) = delete;
  AlignedArray& operator=(const AlignedArray&) = delete;
  ~AlignedArray() { ::operator delete[](data_, std::align_val_t{64}); }

  T* data() const { return data_; }

 private:
  T* data_;
};

}  // namespace qcore
