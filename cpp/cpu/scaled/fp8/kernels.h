// The CPU rows of op "fp8", and what they share.
#pragma once

#include "qcore/fp8.h"

namespace qcore {

using RunFp8 = Status (*)(const Fp8Args&, const Executor&);
using RunQuantizeFp8 = Status (*)(const QuantizeFp8Args&, const Executor&);

// Quantizes args.floats into memory of its own, if there are any, and runs `gemm` on the result.
Status fp8_from_floats(const Fp8Args& args, const Executor& executor, RunQuantizeFp8 quantize,
                       RunFp8 gemm);

namespace reference {
Status fp8_gemm(const Fp8Args& args, const Executor& executor);
}
namespace avx2::fp8 {
Status fp8_gemm(const Fp8Args& args, const Executor& executor);
}
namespace avx512::fp8 {
Status fp8_gemm(const Fp8Args& args, const Executor& executor);
}

}  // namespace qcore
