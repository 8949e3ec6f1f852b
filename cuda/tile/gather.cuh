// Brings activations into the column order of a packed weight, where the kernel cannot read them in
// place: act-order (columns permuted), groups that padding moves apart, rows that are not aligned.
#pragma once

#include "tile/scalars.cuh"

namespace qcore::tile {

struct GatherParams {
  const void* x;  // [m, k], rows x_stride elements apart
  int64_t x_stride;
  const int32_t* perm;  // [k] or null
  int64_t k, group_size;
  int64_t padded_group;  // columns that a group takes in the packed weight, a multiple of 8
  int m, columns;        // columns: the padded K, a multiple of 8
  void* to;              // [m, columns]
};

// Eight columns of one token per thread. A permutation that names no column gives NaN: the kernel
// must not read foreign memory, and the caller shall see it.
struct Gather {
  using Params = GatherParams;
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 1;
  static constexpr uint32_t kNaN = 0x7fff;  // in fp16 and in bf16

  static int blocks(int64_t m, int64_t columns) {
    return static_cast<int>(ceil_div(m * columns / 8, kThreads));
  }

  QCORE_DEVICE static void run(const Params& p) {
    const int64_t index = static_cast<int64_t>(ptx::block_index()) * kThreads + ptx::thread_index();
    const int eights = p.columns / 8;
    if (index >= static_cast<int64_t>(p.m) * eights) return;
    const int64_t token = index / eights;
    const int64_t padded = index % eights * 8;
    const int64_t group = padded / p.padded_group,
                  inside = padded % p.padded_group;  // all eight in one group
    const uint16_t* row = static_cast<const uint16_t*>(p.x) + token * p.x_stride;
    ptx::Vec16 eight = {};
    QCORE_UNROLL
    for (int j = 0; j < 8; ++j) {
      const int64_t column = group * p.group_size + inside + j;
      if (inside + j >= p.group_size || column >= p.k) break;
      const int64_t source = p.perm ? ptx::load_global(p.perm + column) : column;
      const uint32_t bits = source >= 0 && source < p.k ? ptx::load_global(row + source) : kNaN;
      eight.word[j / 2] |= bits << (j % 2 * 16);
    }
    ptx::store_global(static_cast<ptx::Vec16*>(p.to) + index, eight);
  }
};

}  // namespace qcore::tile
