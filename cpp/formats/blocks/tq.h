// TQ1_0 and TQ2_0: 256 ternary codes (-1, 0, 1) with one scale, five to a byte or in 2 bits each.
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

// A byte b of TQ1_0 stands for the fraction b / 256 in base 3, whose digits, first to last, are the
// codes of elements `Run` apart: multiplying by 3^n moves digit n to the front.
struct TQ1_0 {
  Bytes<32> fives;        // elements 0 .. 159
  Bytes<16> short_fives;  // elements 160 .. 239
  Bytes<4> fours;         // elements 240 .. 255
  Half scale;

  void decode(float* out) const {
    const float d = scale.value();
    decode_run(fives, 5, d, out);
    decode_run(short_fives, 5, d, out + 160);
    decode_run(fours, 4, d, out + 240);
  }

 private:
  template <size_t Run>
  static void decode_run(const std::array<uint8_t, Run>& bytes, int digits, float d, float* out) {
    unsigned power = 1;
    for (int n = 0; n < digits; ++n, power *= 3, out += Run) {
      for (size_t i = 0; i < Run; ++i) {
        const unsigned fraction = bytes[i] * power & 255u;
        out[i] = d * static_cast<float>(static_cast<int>(fraction * 3 >> 8) - 1);
      }
    }
  }
};

// Two bits could also say 2, which no encoder writes.
struct TQ2_0 {
  Bytes<64> codes;
  Half scale;

  void decode(float* out) const {
    const float d = scale.value();
    for (int i = 0; i < 256; ++i) out[i] = d * static_cast<float>(code<2, 32>(codes, i) - 1);
  }
};

}  // namespace qcore::blocks
