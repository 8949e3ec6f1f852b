// How a quantized weight is stored, independent of any device: one Format per line of formats.def.
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
struct IntGroup {
  int64_t n = 0;
  int64_t k = 0;
  int64_t group_size = 0;  // 1 .. k
  int bits = 4;
  bool has_zeros = false;
  DType scale_dtype = DType::f32;

  constexpr int64_t groups() const { return ceil_div(k, group_size); }
  constexpr int center() const { return 1 << (bits - 1); }
  Status check() const;
};

}  // namespace qcore
