// How a quantized weight is stored, independent of any device: one Format per line of formats.def
// and of blocks.def, the block formats of GGUF (blocks.h).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "qcore/elements.h"
#include "qcore/export.h"
#include "qcore/status.h"
#include "qcore/types.h"

namespace QCORE_API qcore {

struct Format {
  const char* name;
  const char* summary;
};

std::span<const Format> formats();
const Format* find_format(std::string_view name);  // null if there is none

// A weight [N, K] of elements under scales, the one description for packed layouts and for ops on
// plain tensors: W[n, k] = scale * (code[n, k] - zero), where `granularity` says which scale, and
// the zero point is the element's center unless the weight has some of its own, one for each scale.
//
// int_group, what is packed, has a scale for each row and group of `group_size` columns (the last
// may be shorter): scale[n, g], g = k / group_size.
//
// A weight [E, N, K] is E of them, one after the other, of the same shape: the weights of experts.
struct ScaledWeight {
  int64_t n = 0;
  int64_t k = 0;
  int64_t group_size = 0;  // of groups: 1 .. k
  Elements elements = Elements::u4;
  bool has_zeros = false;
  DType scale_dtype = DType::f32;
  Granularity granularity = Granularity::group;
  int64_t experts = 1;  // E

  constexpr ScaledWeight of_one_expert() const {
    ScaledWeight one = *this;
    one.experts = 1;
    return one;
  }
  constexpr int64_t groups() const { return ceil_div(k, group_size); }
  constexpr int bits() const { return bits_of(elements); }
  // As int_group: unsigned integers or floats, in groups.
  Status check() const;
};

// What codes of so many bits stand for: floats of a type, or unsigned integers. Names `bits` if
// there are no such elements.
Status elements_of_codes(int64_t bits, std::optional<Float8> floats, Elements& elements);

// How many experts a weight with rows of n may have, so that no size derived from it overflows.
Status check_experts(int64_t experts, int64_t n);

// How integer codes lie in the tensors of other people's checkpoints. All are unsigned; columns are
// those of the weight [N, K].
enum class CodeOrder : uint8_t {
  plain,              // u8 [N, K], or [E, N, K]; the others are of one expert
  gptq,               // i32 [ceil(K * bits / 32), N]: along K a stream of bits, lowest first
  awq,                // i32 [K, N / 8], 4 bits; nibbles hold rows 0, 2, 4, 6, 1, 3, 5, 7 of eight
  compressed_tensors  // i32 [N, ceil(K * bits / 32)]: along K a stream of bits, lowest first
};

struct CodeSource {
  const void* data = nullptr;
  CodeOrder order = CodeOrder::plain;
  const int32_t* perm = nullptr;  // [K] or null: column j is column perm[j] of the data (act-order)

  Status check(const ScaledWeight& shape) const;
};

}  // namespace QCORE_API qcore
