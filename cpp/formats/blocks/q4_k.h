// Q4_K and Q5_K: 256 codes of 4 or 5 bits; a 6-bit scale and minimum for each 32, themselves scaled
// by two halves.
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

// Eight pairs of 6 bits in twelve bytes. Pairs 0 to 3 are the low 6 bits of bytes 0 to 3 (scales)
// and 4 to 7 (minima), whose top bits are the top bits of pairs 4 to 7. Bytes 8 to 11 hold the low
// nibbles of those: scales low, minima high.
struct SixBitPairs {
  Bytes<12> bytes;

  int scale(int g) const { return g < 4 ? low(g) : code<4, 4>(tail(), g - 4) | top(g - 4); }
  int minimum(int g) const { return g < 4 ? low(g + 4) : code<4, 4>(tail(), g) | top(g); }

 private:
  int low(int i) const { return bytes[static_cast<size_t>(i)] & 63; }
  int top(int i) const { return bytes[static_cast<size_t>(i)] >> 6 << 4; }
  const uint8_t* tail() const { return bytes.data() + 8; }
};

struct Q4_K {
  Half scale;
  Half minimum;
  SixBitPairs groups;
  Bytes<128> codes;

  void decode(float* out) const {
    for (int g = 0; g < 8; ++g) {
      const float d = scale.value() * static_cast<float>(groups.scale(g));
      const float m = minimum.value() * static_cast<float>(groups.minimum(g));
      for (int i = 32 * g; i < 32 * g + 32; ++i) {
        out[i] = d * static_cast<float>(code<4, 32>(codes, i)) - m;
      }
    }
  }
};

struct Q5_K {
  Half scale;
  Half minimum;
  SixBitPairs groups;
  Bytes<32> high;
  Bytes<128> low;

  void decode(float* out) const {
    for (int g = 0; g < 8; ++g) {
      const float d = scale.value() * static_cast<float>(groups.scale(g));
      const float m = minimum.value() * static_cast<float>(groups.minimum(g));
      for (int i = 32 * g; i < 32 * g + 32; ++i) {
        const int q = code<4, 32>(low, i) | code<1, 32>(high, i) << 4;
        out[i] = d * static_cast<float>(q) - m;
      }
    }
  }
};

}  // namespace qcore::blocks
