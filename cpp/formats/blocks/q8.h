// Q8_0: 32 signed bytes with one scale.
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

struct Q8_0 : Codec<Q8_0, 32, 32, 256, -128> {
  // As codes, signed bytes are counted from the least one, -128.
  struct SignedBytes {
    std::array<int8_t, 32> bytes;

    constexpr int get(int i) const { return bytes[static_cast<size_t>(i)] + 128; }
    constexpr void set(int i, int code) {
      bytes[static_cast<size_t>(i)] = static_cast<int8_t>(code - 128);
    }
    constexpr void get_all(uint8_t* to) const {
      for (int i = 0; i < 32; ++i) to[i] = static_cast<uint8_t>(get(i));
    }
    constexpr void set_all(const uint8_t* from) {
      for (int i = 0; i < 32; ++i) set(i, from[i]);
    }
  };

  Half scale;
  SignedBytes codes;
};

}  // namespace qcore::blocks
