// TQ1_0 and TQ2_0: 256 ternary codes (-1, 0, 1) with one scale, five to a byte or in 2 bits each.
#pragma once

#include "formats/blocks/bits.h"

namespace qcore::blocks {

// A byte b stands for the fraction b / 256 in base 3, whose digits, first to last, are the codes of
// elements some run apart: multiplying by 3^n moves digit n to the front. The bytes of elements 0
// to 159 come in one run of 32, those of 160 to 239 in one of 16, and those of 240 to 255 in one of
// 4, with four digits each.
struct FivesOfTrits {
  Bytes<52> bytes;

  constexpr int get(int i) const {
    return i < 160   ? Fives::get(*this, i)
           : i < 240 ? ShortFives::get(*this, i)
                     : Fours::get(*this, i);
  }
  constexpr void set(int i, int code) {
    i < 160   ? Fives::set(*this, i, code)
    : i < 240 ? ShortFives::set(*this, i, code)
              : Fours::set(*this, i, code);
  }
  constexpr void get_all(uint8_t* codes) const {
    Fives::get_all(*this, codes);
    ShortFives::get_all(*this, codes);
    Fours::get_all(*this, codes);
  }
  constexpr void set_all(const uint8_t* codes) {
    Fives::set_all(*this, codes);
    ShortFives::set_all(*this, codes);
    Fours::set_all(*this, codes);
  }

 private:
  static constexpr int power(int n) {  // 3^n, n <= 4
    return static_cast<int>(0x511b090301u >> 8 * n & 255u);
  }
  static constexpr int digit(int byte, int n) { return (byte * power(n) & 255) * 3 >> 8; }
  // All five digits as one number.
  static constexpr int number(int byte) { return byte * 243 >> 8; }
  // 256 bytes stand for 243 numbers: one that says the number already stays.
  static constexpr void put(uint8_t& byte, int to) {
    if (number(byte) != to) byte = static_cast<uint8_t>((to * 256 + 242) / 243);
  }

  // The bytes from number `Byte` on that hold the elements from number `First` on.
  template <int First, int Byte, int Length, int Digits>
  struct Run {
    static constexpr auto& byte(auto& all, int i) {
      return all.bytes[static_cast<size_t>(Byte + (i - First) % Length)];
    }
    static constexpr int place(int i) { return (i - First) / Length; }

    static constexpr int get(const FivesOfTrits& all, int i) {
      return digit(byte(all, i), place(i));
    }
    static constexpr void set(FivesOfTrits& all, int i, int code) {
      uint8_t& at = byte(all, i);
      put(at, number(at) + (code - digit(at, place(i))) * power(4 - place(i)));
    }
    static constexpr void get_all(const FivesOfTrits& all, uint8_t* codes) {
      for (int n = 0; n < Digits; ++n) {
        for (int i = First; i < First + Length; ++i) {
          codes[n * Length + i] = static_cast<uint8_t>(digit(byte(all, i), n));
        }
      }
    }
    static constexpr void set_all(FivesOfTrits& all, const uint8_t* codes) {
      for (int i = First; i < First + Length; ++i) {
        uint8_t& at = byte(all, i);
        int sum = Digits == 4 ? number(at) % 3 : 0;  // a fifth digit stays
        for (int n = 0; n < Digits; ++n) sum += codes[n * Length + i] * power(4 - n);
        put(at, sum);
      }
    }
  };
  using Fives = Run<0, 0, 32, 5>;
  using ShortFives = Run<160, 32, 16, 5>;
  using Fours = Run<240, 48, 4, 4>;
};

struct TQ1_0 : Codec<TQ1_0, 256, 256, 3, -1> {
  FivesOfTrits codes;
  Half scale;
};

// Two bits can also say 2, which no encoder writes.
struct TQ2_0 : Codec<TQ2_0, 256, 256, 4, -1> {
  Codes<256, Plane<2, 32>> codes;
  Half scale;
};

}  // namespace qcore::blocks
