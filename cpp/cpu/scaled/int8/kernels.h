// The CPU rows of op "int8", and what they share.
#pragma once

#include "qcore/int8.h"

namespace qcore {

using RunInt8 = Status (*)(const Int8Args&, const Executor&);
using RunQuantizeInt8 = Status (*)(const QuantizeInt8Args&, const Executor&);

// Quantizes args.floats into memory of its own, if there are any, and runs `gemm` on the result.
Status int8_from_floats(const Int8Args& args, const Executor& executor, RunQuantizeInt8 quantize,
                        RunInt8 gemm);

// The call with the weight of one expert. Its offsets are null, m, x and y those of all rows.
Int8Args args_of(const Int8Args& args, int64_t expert);

namespace reference {
Status int8_gemm(const Int8Args& args, const Executor& executor);
}
namespace avx2::int8 {
Status int8_gemm(const Int8Args& args, const Executor& executor);
}
namespace avxvnni::int8 {
Status int8_gemm(const Int8Args& args, const Executor& executor);
}
namespace avx512::int8 {
Status int8_gemm(const Int8Args& args, const Executor& executor);
}

}  // namespace qcore
