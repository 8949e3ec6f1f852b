// What a weight, or an input, is made of: elements under scales. Every op, layout and format speaks
// these words; what else follows from an element is said here and nowhere else.
#pragma once

#include <cstdint>
#include <optional>

#include "qcore/export.h"
#include "qcore/types.h"

namespace QCORE_API qcore {

// What a code stands for before its scale: an unsigned integer, which may have a zero point, a
// signed one, or a float. A code is one byte where it is not packed.
enum class Elements : uint8_t { u2, u3, u4, u8, s8, e4m3, e5m2 };

struct ElementFacts {
  const char* name;
  int bits;
  bool takes_zeros = false;  // weight = scale * (code - zero)
  bool floats = false;
  Float8 float8 = {};  // of floats
};

constexpr ElementFacts facts_of(Elements elements) {
  switch (elements) {
    case Elements::u2: return {.name = "u2", .bits = 2, .takes_zeros = true};
    case Elements::u3: return {.name = "u3", .bits = 3, .takes_zeros = true};
    case Elements::u4: return {.name = "u4", .bits = 4, .takes_zeros = true};
    case Elements::u8: return {.name = "u8", .bits = 8, .takes_zeros = true};
    case Elements::s8: return {.name = "s8", .bits = 8};
    case Elements::e4m3: return {.name = "e4m3", .bits = 8, .floats = true, .float8 = Float8::e4m3};
    case Elements::e5m2: return {.name = "e5m2", .bits = 8, .floats = true, .float8 = Float8::e5m2};
  }
  return {.name = "unknown elements", .bits = 0};
}

inline const char* name(Elements elements) {
  return facts_of(elements).name;
}
constexpr int bits_of(Elements elements) {
  return facts_of(elements).bits;
}
constexpr bool takes_zeros(Elements elements) {
  return facts_of(elements).takes_zeros;
}
constexpr bool is_float(Elements elements) {
  return facts_of(elements).floats;
}
// Of floats alone.
constexpr Float8 float8_of(Elements floats) {
  return facts_of(floats).float8;
}
// The zero point where none is stored.
constexpr int center_of(Elements elements) {
  const ElementFacts facts = facts_of(elements);
  return facts.takes_zeros ? 1 << (facts.bits - 1) : 0;
}

constexpr Elements elements_of(Float8 type) {
  return type == Float8::e4m3 ? Elements::e4m3 : Elements::e5m2;
}
// Unsigned integers of so many bits, nothing if there are none.
constexpr std::optional<Elements> unsigned_of(int64_t bits) {
  for (const Elements e : {Elements::u2, Elements::u3, Elements::u4, Elements::u8}) {
    if (bits_of(e) == bits) return e;
  }
  return {};
}

// Which elements of a matrix share a scale (rows of activations are tokens).
enum class Granularity : uint8_t {
  tensor,  // all
  row,     // those of a row
  group,   // so many columns of a row, the last group of a row maybe fewer
  block    // of activations [rows, ceil(K / 128)], of weights [ceil(rows / 128), ceil(K / 128)]
};
inline constexpr int64_t kScaleBlock = 128;

const char* name(Granularity granularity);

}  // namespace QCORE_API qcore
