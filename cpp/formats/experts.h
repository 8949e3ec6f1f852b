// Where, of what belongs to the weight [E, N, K] of several experts, that of one begins.
#pragma once

#include <cstdint>
#include <type_traits>

namespace qcore {

// `count` elements further on, bytes if their type is void; null stays null.
template <class T>
T* advance(T* data, int64_t count) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  if (!data) return nullptr;
  if constexpr (std::is_void_v<T>) {
    return static_cast<Byte*>(data) + count;
  } else {
    return data + count;
  }
}

}  // namespace qcore
