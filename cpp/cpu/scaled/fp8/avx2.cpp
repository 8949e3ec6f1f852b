// Op "fp8" compiled for AVX2. Everything included before the target region is compiled for any
// machine; everything inside it lives in this namespace only.
#include "cpu/scaled/fp8/prelude.h"

QCORE_BEGIN_TARGET(QCORE_TARGET_AVX2)

namespace qcore::avx2::fp8 {
#include "cpu/scaled/fp8/avx2.h"
#include "cpu/scaled/fp8/loops.h"

Status fp8_gemm(const ScaledArgs& args, const Executor& executor) {
  return from_floats(args, executor, {avx2::quantize::quantize_int8, avx2::quantize::quantize_fp8},
                     gemm);
}
}  // namespace qcore::avx2::fp8

QCORE_END_TARGET
