// The CPU rows of op "kquant", and what their gemms share.
//
// For one row of x and one of the weight, over the blocks of K in order:
//   amax = max|x|;  scale_x = amax / 127;  q = round_to_even(x * (127 / amax)), all in float32
//   dot = sum over groups of group_scale * (sum over their elements of value * q)   exact
//   min = sum over groups of group_min * (sum over their elements of q)             exact
//   acc = fma(dot * scale_x, d, acc);  acc = fma(min * scale_x, -dmin, acc)
// and y = round(acc + bias). All rows do this, so they agree bit for bit.
#pragma once

#include "qcore/kquant.h"

namespace qcore {

// Where the largest |x| of a block is less, 127 / amax could overflow: q is 0 then.
inline constexpr float kLeastAmax = 0x1p-118f;

// The call with the weight of one expert. Its offsets are null, m, x and y those of all rows.
KquantArgs args_of(const KquantArgs& args, int64_t expert);

namespace reference {
Status kquant_gemm(const KquantArgs& args, const Executor& executor);
}
namespace avx2::kquant {
Status kquant_gemm(const KquantArgs& args, const Executor& executor);
}
namespace avxvnni::kquant {
Status kquant_gemm(const KquantArgs& args, const Executor& executor);
}
namespace avx512::kquant {
Status kquant_gemm(const KquantArgs& args, const Executor& executor);
}

}  // namespace qcore
