// What a bulk tensor copy (TMA) is told of a matrix in global memory. The host states the facts,
// whoever launches makes a TensorMap of them: cuda/runtime/tensor_map.cpp asks the driver for the
// hardware's own encoding, the emulator keeps the facts as they are.
#pragma once

#include <cstdint>
#include <string>

#include "qcore/status.h"

namespace qcore {

// How 16-byte pieces of a tile are permuted in shared memory, so that those of one column lie in
// different banks: within rows of that many bytes, a piece's number is XORed with its row's number.
enum class Swizzle : uint32_t { none = 0, bytes32 = 32, bytes64 = 64, bytes128 = 128 };

// The permutation repeats after so many bytes, and starts where the address is a multiple of them.
constexpr uint32_t swizzle_period(Swizzle swizzle) {
  return swizzle == Swizzle::none ? 128 : static_cast<uint32_t>(swizzle) * 8;
}

// As a parameter of a kernel, by value; the copy engine reads it there.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

// A tensor of up to three dimensions, the contiguous one first, and the box that one copy moves.
// Elements of a box beyond the tensor are read as zeros, and not written.
struct TensorFacts {
  const void* base;
  int element_bytes;   // 1, 2 or 4
  int rank;            // 2 or 3
  uint64_t size[3];    // elements
  uint64_t stride[2];  // bytes from one element of dimension 1, and 2, to the next
  uint32_t box[3];     // elements
  Swizzle swizzle;

  uint32_t box_bytes() const {
    return box[0] * box[1] * (rank == 3 ? box[2] : 1) * static_cast<uint32_t>(element_bytes);
  }

  // What the hardware asks for.
  Status check() const {
    const auto wrong = [](const std::string& what) {
      return Status::invalid("tensor map: " + what);
    };
    if (rank != 2 && rank != 3) return wrong("expected 2 or 3 dimensions");
    if (element_bytes != 1 && element_bytes != 2 && element_bytes != 4) {
      return wrong("expected elements of 1, 2 or 4 bytes");
    }
    if (reinterpret_cast<uintptr_t>(base) % 16 != 0) {
      return wrong("expected memory aligned to 16 bytes");
    }
    for (int i = 0; i < rank; ++i) {
      if (size[i] < 1 || size[i] > uint64_t{1} << 32) return wrong("expected sizes of 1 .. 2^32");
      if (box[i] < 1 || box[i] > 256) return wrong("expected a box of 1 .. 256 elements");
    }
    for (int i = 0; i + 1 < rank; ++i) {
      if (stride[i] % 16 != 0 || stride[i] >= uint64_t{1} << 40) {
        return wrong("expected strides below 2^40 that are multiples of 16 bytes, got " +
                     std::to_string(stride[i]));
      }
    }
    const uint32_t row = box[0] * static_cast<uint32_t>(element_bytes);
    if (row % 16 != 0) return wrong("expected rows of a box of multiples of 16 bytes");
    if (swizzle != Swizzle::none && row != static_cast<uint32_t>(swizzle)) {
      return wrong("expected rows of a box as long as the swizzle's " +
                   std::to_string(static_cast<uint32_t>(swizzle)) + " bytes, got " +
                   std::to_string(row));
    }
    return {};
  }
};

}  // namespace qcore
