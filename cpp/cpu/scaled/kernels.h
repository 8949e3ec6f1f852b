// The CPU rows of the family "scaled": of integers (op "int8") and of floats (op "fp8"), and what
// they share.
#pragma once

#include "qcore/fp8.h"
#include "qcore/int8.h"
#include "qcore/quantize.h"

namespace qcore {

using RunScaled = Status (*)(const ScaledArgs&, const Executor&);

// How rows of one instruction set quantize what they multiply.
struct Quantizers {
  Status (*int8)(const QuantizeInt8Args&, const Executor&);
  Status (*fp8)(const QuantizeFp8Args&, const Executor&);
};

// Quantizes args.floats into memory of its own, if there are any, and runs `gemm` on the result.
Status from_floats(const ScaledArgs& args, const Executor& executor, const Quantizers& quantizers,
                   RunScaled gemm);

// The dense problem of one expert's weight; x, y and what belongs to them stay.
ScaledArgs args_of(const ScaledArgs& args, int64_t expert);

namespace reference {
Status int8_gemm(const ScaledArgs& args, const Executor& executor);
Status fp8_gemm(const ScaledArgs& args, const Executor& executor);
}  // namespace reference
namespace avx2::int8 {
Status int8_gemm(const ScaledArgs& args, const Executor& executor);
}
namespace avx2::fp8 {
Status fp8_gemm(const ScaledArgs& args, const Executor& executor);
}
namespace avxvnni::int8 {
Status int8_gemm(const ScaledArgs& args, const Executor& executor);
}
namespace avx512::int8 {
Status int8_gemm(const ScaledArgs& args, const Executor& executor);
}
namespace avx512::fp8 {
Status fp8_gemm(const ScaledArgs& args, const Executor& executor);
}

}  // namespace qcore
