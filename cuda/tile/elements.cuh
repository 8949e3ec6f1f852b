// A thread for each of many elements: how layouts are packed and unpacked.
#pragma once

#include <algorithm>

#include "ptx/base.cuh"
#include "qcore/types.h"

namespace qcore::tile {

inline constexpr int kElementThreads = 256;

// Blocks for one thread per element, each taking further ones a grid apart.
inline int element_blocks(int64_t count) {
  return static_cast<int>(std::min<int64_t>(ceil_div(count, kElementThreads), 1 << 16));
}

template <class Body>
QCORE_DEVICE void for_each_element(int64_t count, const Body& body) {
  const int64_t step = static_cast<int64_t>(ptx::block_count()) * kElementThreads;
  for (int64_t i = static_cast<int64_t>(ptx::block_index()) * kElementThreads + ptx::thread_index();
       i < count; i += step) {
    body(i);
  }
}

}  // namespace qcore::tile
