// The CPU rows of op "w4a16", and what their gemms share.
#pragma once

#include "qcore/w4a16.h"

namespace qcore {

namespace avx512::w4a16 {
Status w4a16_gemm(const W4A16Args& args, const Executor& executor);
}
namespace avx2::w4a16 {
Status w4a16_gemm(const W4A16Args& args, const Executor& executor);
}
namespace reference {
Status w4a16_gemm(const W4A16Args& args, const Executor& executor);
}

// A gathered column outside [0, k) would read foreign memory, so it is checked at every call: one
// pass over K integers of each expert in use, next to N * K / 2 bytes of weights.
Status check_perms(const W4A16Args& args);

// The call with the weight of one expert. Its offsets are null, m, x and y those of all rows.
W4A16Args args_of(const W4A16Args& args, int64_t expert);

}  // namespace qcore
