// Op "int8" compiled for AVX2. Everything included before the target region is compiled for any
// machine; everything inside it lives in this namespace only.
#include "cpu/scaled/int8/prelude.h"

#define QCORE_VNNI256 0

QCORE_BEGIN_TARGET(QCORE_TARGET_AVX2)

namespace qcore::avx2::int8 {
#include "cpu/scaled/int8/isa_256.h"
#include "cpu/scaled/int8/loops.h"

Status int8_gemm(const Int8Args& args, const Executor& executor) {
  return int8_from_floats(args, executor, avx2::quantize::quantize_int8, gemm);
}
}  // namespace qcore::avx2::int8

QCORE_END_TARGET
