// What the block formats are made of: half-precision scales, and numbers of a few bits laid side by
// side in bytes. The structs of the codecs hold bytes only, so that they have no padding and may
// lie at any address.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "numerics/float16.h"

namespace qcore::blocks {

template <int Count>
using Bytes = std::array<uint8_t, Count>;

struct Half {
  Bytes<2> little_endian;

  constexpr float value() const {
    return f32_from_f16(static_cast<uint16_t>(little_endian[0] | little_endian[1] << 8));
  }
  constexpr void set(float value) {
    const unsigned bits = f16_from_f32(value);
    little_endian = {static_cast<uint8_t>(bits & 255u), static_cast<uint8_t>(bits >> 8)};
  }
};

// Numbers that all formats pack by one rule: the bytes are cut into runs of `Run`, and the lowest
// `Bits` bits of the bytes of a run are the numbers of `Run` consecutive indices, the next bits
// those of the next `Run` indices, and so on. A run of one byte is a plain little-endian stream.
template <int Bits, int Run>
struct Packing {
  static constexpr int kBits = Bits, kRun = Run, kPerByte = 8 / Bits, kMask = (1 << Bits) - 1;

  static constexpr size_t byte(int i) {
    return static_cast<size_t>(i / (Run * kPerByte) * Run + i % Run);
  }
  static constexpr int shift(int i) { return i / Run % kPerByte * Bits; }
  static constexpr int get(const uint8_t* bytes, int i) {
    return bytes[byte(i)] >> shift(i) & kMask;
  }
  static constexpr void set(uint8_t* bytes, int i, int number) {
    const int others = bytes[byte(i)] & ~(kMask << shift(i));
    bytes[byte(i)] = static_cast<uint8_t>(others | (number & kMask) << shift(i));
  }
};

// Bits [Shift, Shift + Bits) of the codes of a block.
template <int Bits, int Run, int Shift = 0>
struct Plane : Packing<Bits, Run> {
  static constexpr int kShift = Shift;
};

// The codes of a block, in one plane after the other.
template <int Count, class... Planes>
struct Codes {
  static constexpr int kBits = (Planes::kBits + ...);
  Bytes<Count * kBits / 8> bytes;

  constexpr int get(int i) const {
    int code = 0;
    each([&](auto plane, const uint8_t* from) { code |= plane.get(from, i) << plane.kShift; },
         bytes.data());
    return code;
  }
  constexpr void set(int i, int code) {
    each([&](auto plane, uint8_t* to) { plane.set(to, i, code >> plane.kShift); }, bytes.data());
  }

  // All of them, in loops that compilers vectorise.
  constexpr void get_all(uint8_t* codes) const {
    for (int i = 0; i < Count; ++i) codes[i] = 0;
    each(
        [&](auto plane, const uint8_t* from) {
          runs<decltype(plane)>([&](int first, int byte, int shift) {
            for (int i = 0; i < plane.kRun; ++i) {
              const int number = from[byte + i] >> shift & plane.kMask;
              codes[first + i] = static_cast<uint8_t>(codes[first + i] | number << plane.kShift);
            }
          });
        },
        bytes.data());
  }
  constexpr void set_all(const uint8_t* codes) {
    bytes = {};
    each(
        [&](auto plane, uint8_t* to) {
          runs<decltype(plane)>([&](int first, int byte, int shift) {
            for (int i = 0; i < plane.kRun; ++i) {
              const int number = codes[first + i] >> plane.kShift & plane.kMask;
              to[byte + i] = static_cast<uint8_t>(to[byte + i] | number << shift);
            }
          });
        },
        bytes.data());
  }

 private:
  static constexpr void each(auto&& f, auto* at) {
    ((f(Planes{}, at), at += Count * Planes::kBits / 8), ...);
  }
  // f(index of the first code, of the first byte, shift) for every run of codes.
  template <class P>
  static constexpr void runs(auto&& f) {
    for (int first = 0; first < Count; first += P::kRun) {
      f(first, static_cast<int>(P::byte(first)), P::shift(first));
    }
  }
};

// The view that every codec has, and from which decoding, splitting, joining and encoding are
// written once (blocks.cpp):
//   element i = (d() * group_scale(g)) * value(code(i)) - dmin() * group_min(g),  g = i / kGroup,
// in float32, rounded after each operation. Codes are 0 .. kCodes - 1; what is called a minimum is
// subtracted. Here is what most formats have in common: a half as d, another as dmin if there is
// one, values that go up by 1 from `FirstValue`, and no integer scales of groups, whose scale is
// then 1. A codec hides what it does otherwise. All is constexpr, and so of use to CUDA kernels.
template <class Self, int Elements, int Group, int CodeCount, int FirstValue, bool HasMin = false>
struct Codec {
  static constexpr int kElements = Elements, kGroup = Group, kCodes = CodeCount;
  static constexpr bool kHasMin = HasMin;
  static constexpr int kMaxScale =
      1;  // of a group; the least is 0, or -kMaxScale - 1 without minima

  static constexpr int value(int code) { return code + FirstValue; }
  constexpr int code(int i) const { return self().codes.get(i); }
  constexpr void set_code(int i, int code) { self().codes.set(i, code); }
  constexpr float d() const { return self().scale.value(); }
  constexpr void set_d(float d) { self().scale.set(d); }
  constexpr float dmin() const {
    if constexpr (HasMin) {
      return self().minimum.value();
    } else {
      return 0;
    }
  }
  constexpr void set_dmin(float dmin) { self().minimum.set(dmin); }
  constexpr int group_scale(int) const { return 1; }
  constexpr int group_min(int) const { return HasMin ? 1 : 0; }

 private:
  constexpr const Self& self() const { return static_cast<const Self&>(*this); }
  constexpr Self& self() { return static_cast<Self&>(*this); }
};

}  // namespace qcore::blocks
