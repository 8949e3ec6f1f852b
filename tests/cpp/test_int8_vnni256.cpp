// The 256-bit VNNI loops of row int8_avxvnni where AVX-VNNI is missing but AVX512 is there: the
// same instructions in the encoding of AVX512VL.
#include <gtest/gtest.h>

#include "canonical_cases.h"

#if defined(__x86_64__)
#include "cpu/scaled/int8/prelude.h"

#define QCORE_VNNI256(name) _mm256_##name##_epi32

QCORE_BEGIN_TARGET(QCORE_TARGET_AVX512)

namespace qcore::vnni256 {
#include "cpu/scaled/int8/avxvnni.h"
#include "cpu/scaled/int8/loops.h"
}  // namespace qcore::vnni256

QCORE_END_TARGET

namespace qcore {
namespace {

using namespace testing;

void compare(const Int8Data& d) {
  Output y(d.shape.dtype, d.shape.m * d.shape.n);
  ASSERT_TRUE(vnni256::gemm(d.args(y.data()), {}).ok());
  ASSERT_TRUE(y.guards_hold()) << describe(d.shape);
  for (int64_t i = 0; i < d.shape.m * d.shape.n; ++i) {
    ASSERT_EQ(y.get(i), exact_int8(d, i / d.shape.n, i % d.shape.n))
        << describe(d.shape) << " at " << i;
  }
}

TEST(Int8Vnni256, HasThePromisedBits) {
  if (detected_isa() != Isa::avx512) GTEST_SKIP() << "needs AVX512";
  Rng rng(71);
  for (int i = 0; i < 300 && !HasFailure(); ++i) compare(random_data(random_int8_case(rng), rng));
  for (int64_t m = 1; m <= 40 && !HasFailure(); ++m) {
    compare(random_data(Int8Case{.m = m, .n = 53, .k = 70, .zeros = m % 2 == 0}, rng));
  }
  for (const int64_t m : {1, 20}) {
    compare(random_data(Int8Case{.m = m, .n = 7, .k = kInt8MaxK, .zeros = true}, rng, true));
  }
}

}  // namespace
}  // namespace qcore

#endif
