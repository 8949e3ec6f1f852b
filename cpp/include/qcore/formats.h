// How a quantized weight is stored, independent of any device: one Format per line of formats.def
// and of blocks.def, the block formats of GGUF (blocks.h).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "qcore/status.h"
#include "qcore/types.h"

namespace qcore {

struct Format {
  const char* name;
  const char* summary;
};

std::span<const Format> formats();
const Format* find_format(std::string_view name);  // null if there is none

// int_group: a weight [N, K] of unsigned b-bit codes, b in {2, 3, 4, 8}, cut along K into groups of
// `group_size` columns (the last may be shorter), with a scale per row and group and, if
// asymmetric, a zero point:  W[n, k] = scale[n, g] * (code[n, k] - zero[n, g]),  g = k /
// group_size. Symmetric weights have the constant zero point 2^(b-1).
//
// Codes of 8 bits may be floats instead, without zero points: W[n, k] = scale[n, g] * code[n, k].
//
// A weight [E, N, K] is E of them, one after the other, of the same shape: the weights of experts.
enum class CodeKind : uint8_t { integer, e4m3, e5m2 };

struct IntGroup {
  int64_t n = 0;
  int64_t k = 0;
  int64_t group_size = 0;  // 1 .. k
  int bits = 4;
  bool has_zeros = false;
  DType scale_dtype = DType::f32;
  CodeKind kind = CodeKind::integer;
  int64_t experts = 1;  // E

  constexpr IntGroup of_one_expert() const {
    IntGroup one = *this;
    one.experts = 1;
    return one;
  }
  constexpr int64_t groups() const { return ceil_div(k, group_size); }
  constexpr int center() const { return 1 << (bits - 1); }
  constexpr bool has_floats() const { return kind != CodeKind::integer; }
  constexpr Float8 float_type() const {  // of codes that are floats
    return kind == CodeKind::e4m3 ? Float8::e4m3 : Float8::e5m2;
  }
  Status check() const;
};

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

  Status check(const IntGroup& shape) const;
};

}  // namespace qcore
