// Reads one code of somebody else's tensor (CodeOrder), on the host and in kernels alike: `load` is
// how a byte or a word of memory is read there.
#pragma once

#include <cstdint>

#include "qcore/formats.h"

namespace qcore {

// Bits [first, first + bits) of a stream of words, lowest first; `word(i)` is word i.
template <class Word>
constexpr uint32_t stream_bits(const Word& word, int64_t first, int bits) {
  const int64_t index = first / 32;
  const int shift = static_cast<int>(first % 32);
  uint32_t value = word(index) >> shift;
  if (shift + bits > 32) value |= word(index + 1) << (32 - shift);
  return value & ((1u << bits) - 1u);
}

// The code of row n and column k, k < shape.k. In the plain order a byte may hold more than it
// should; the caller checks.
template <class Load>
constexpr uint32_t code_at(const CodeSource& source, const ScaledWeight& shape, int64_t n,
                           int64_t k, const Load& load) {
  if (source.perm) {
    k = load(source.perm + k);
    if (k < 0 || k >= shape.k) return ~0u;  // no such column; too large for any code
  }
  const uint32_t* words = static_cast<const uint32_t*>(source.data);
  switch (source.order) {
    case CodeOrder::gptq:
      return stream_bits([&](int64_t i) { return load(words + i * shape.n + n); }, k * shape.bits(),
                         shape.bits());
    case CodeOrder::awq: {
      const int column = static_cast<int>(n % 8);
      const int nibble = column / 2 + column % 2 * 4;
      return load(words + k * (shape.n / 8) + n / 8) >> (4 * nibble) & 15u;
    }
    case CodeOrder::compressed_tensors: {
      const int64_t width = ceil_div(shape.k * shape.bits(), 32);
      return stream_bits([&](int64_t i) { return load(words + n * width + i); }, k * shape.bits(),
                         shape.bits());
    }
    default: return load(static_cast<const uint8_t*>(source.data) + n * shape.k + k);
  }
}

// Reads host memory.
struct HostLoad {
  template <class T>
  constexpr T operator()(const T* from) const {
    return *from;
  }
};

}  // namespace qcore
