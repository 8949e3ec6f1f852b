// The block formats of GGUF files: a row of a weight is a sequence of blocks, each a few bytes that
// hold the codes and scales of 32 or 256 consecutive elements. One BlockFormat per line of
// blocks.def.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "qcore/executor.h"
#include "qcore/status.h"
#include "qcore/types.h"

namespace qcore {

struct BlockFormat {
  const char* name;  // as in GGUF: "Q4_K"
  int ggml_type;     // its number there
  int elements;      // per block, at most kMaxBlockElements
  int bytes;         // per block
  void (*decode)(const void* blocks, int64_t count, float* out);  // on the calling thread
};

inline constexpr int kMaxBlockElements = 256;

std::span<const BlockFormat> block_formats();
const BlockFormat* find_block_format(std::string_view name);  // null if there is none

// The elements of `count` blocks, in order. Values are computed in float32 by the sequence of
// roundings of the Python package gguf; f16 and bf16 are rounded from them to nearest even.
// `blocks` may have any alignment, `out` that of its dtype.
Status decode_blocks(const BlockFormat& format, const void* blocks, int64_t count, DType dtype,
                     void* out, const Parallel& parallel);

}  // namespace qcore
