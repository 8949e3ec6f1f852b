// Op "fp8" compiled for AVX512. Everything included before the target region is compiled for any
// machine; everything inside it lives in this namespace only.
#include "cpu/scaled/fp8/prelude.h"

QCORE_BEGIN_TARGET(QCORE_TARGET_AVX512)

namespace qcore::avx512::fp8 {
#include "cpu/scaled/fp8/avx512.h"
#include "cpu/scaled/fp8/loops.h"

Status fp8_gemm(const ScaledArgs& args, const Executor& executor) {
  return from_floats(args, executor,
                     {avx512::quantize::quantize_int8, avx512::quantize::quantize_fp8}, gemm);
}
}  // namespace qcore::avx512::fp8

QCORE_END_TARGET
