// What the block formats are made of: half-precision scales, and codes of a few bits laid side by
// side in bytes. The structs of the codecs hold bytes only, so that they have no padding and may
// lie at any address.
#pragma once

#include <array>
#include <cstdint>

#include "cpu/float16.h"

namespace qcore::blocks {

template <int Count>
using Bytes = std::array<uint8_t, Count>;

struct Half {
  Bytes<2> little_endian;

  float value() const {
    return f32_from_f16(static_cast<uint16_t>(little_endian[0] | little_endian[1] << 8));
  }
};

// Code `i` of those that all formats pack by one rule: the bytes are cut into runs, and the lowest
// `Bits` bits of the bytes of a run are the codes of `Run` consecutive elements, the next bits
// those of the next `Run` elements, and so on. A run of one byte is a plain little-endian stream.
template <int Bits, int Run>
constexpr int code(const auto& bytes, int i) {
  constexpr int kPerByte = 8 / Bits;
  const int byte = i / (Run * kPerByte) * Run + i % Run;
  const int shift = i / Run % kPerByte * Bits;
  return bytes[static_cast<size_t>(byte)] >> shift & ((1 << Bits) - 1);
}

}  // namespace qcore::blocks
