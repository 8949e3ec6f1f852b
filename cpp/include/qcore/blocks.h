// The block formats of GGUF files: a row of a weight is a sequence of blocks, each a few bytes that
// hold the codes and scales of 32 or 256 consecutive elements. One BlockFormat per line of
// blocks.def.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "qcore/executor.h"
#include "qcore/export.h"
#include "qcore/status.h"
#include "qcore/types.h"

namespace QCORE_API qcore {

struct BlockFormat {
  const char* name;      // as in GGUF: "Q4_K"
  int ggml_type;         // its number there
  int elements;          // per block, at most kMaxBlockElements
  int bytes;             // per block
  int group;             // elements that share a scale and a minimum
  int codes;             // codes are 0 .. codes - 1
  const int8_t* values;  // [codes]: what they stand for
  bool has_min;

  // All on the calling thread, for blocks at any address.
  void (*decode)(const void* blocks, int64_t count, float* out);
  // Element i is scales[g] * values[codes[i]] - mins[g], g = i / group, with the bits of decode.
  void (*split)(const void* blocks, int64_t count, uint8_t* codes, float* scales, float* mins);
  // Other codes under the same scales.
  void (*join)(void* blocks, int64_t count, const uint8_t* codes);
};

inline constexpr int kMaxBlockElements = 256;

std::span<const BlockFormat> block_formats();
const BlockFormat* find_block_format(std::string_view name);  // null if there is none

// A weight [N, K] in a block format: rows of k / elements blocks. A weight [E, N, K] is E of them,
// one after the other: the weights of experts.
struct BlockShape {
  const BlockFormat* format = nullptr;
  int64_t n = 0;
  int64_t k = 0;
  int64_t experts = 1;  // E

  constexpr BlockShape of_one_expert() const { return {format, n, k}; }
  constexpr int64_t blocks_per_row() const { return k / format->elements; }
  constexpr int64_t bytes() const { return experts * n * blocks_per_row() * format->bytes; }
  Status check() const;
};

// The elements of `count` blocks, in order, in the memory of executor.device. Values are computed
// in float32 by the sequence of roundings of the Python package gguf; f16 and bf16 are rounded from
// them to nearest even. `blocks` may have any alignment, `out` that of its dtype; on a GPU both are
// 16-byte aligned.
Status decode_blocks(const BlockFormat& format, const void* blocks, int64_t count, DType dtype,
                     void* out, const Executor& executor);

// Encodes w [rows, k], contiguous, with an importance for each column or null, which is the same as
// an equal one for all; blocks [rows, k / elements]. Finite numbers; importance is not negative. A
// row gets the same bits whatever else is in w, from any instruction set and on any number of
// threads.
Status encode_blocks(const BlockFormat& format, DType dtype, const void* w, int64_t rows, int64_t k,
                     const float* importance, void* blocks, const Parallel& parallel);

// Codes [count * elements], scales and mins [count * elements / group] of `count` blocks.
Status split_blocks(const BlockFormat& format, const void* blocks, int64_t count, uint8_t* codes,
                    float* scales, float* mins, const Parallel& parallel);

// Puts other codes [count * elements] into blocks and keeps their scales. Of codes that a block has
// already, no bit changes.
Status join_blocks(const BlockFormat& format, void* blocks, int64_t count, const uint8_t* codes,
                   const Parallel& parallel);

}  // namespace QCORE_API qcore
