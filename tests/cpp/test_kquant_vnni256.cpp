// The 256-bit VNNI loops of row kquant_avxvnni where AVX-VNNI is missing but AVX512 is there: the
// same instructions in the encoding of AVX512VL.
#include <gtest/gtest.h>

#include "kquant_cases.h"
#include "output.h"
#include "qcore/qcore.h"

#if defined(__x86_64__)
#include "cpu/kquant/prelude.h"

#define QCORE_VNNI256(name) _mm256_##name##_epi32

QCORE_BEGIN_TARGET(QCORE_TARGET_AVX512)

namespace qcore::vnni256 {
#include "cpu/kquant/avxvnni.h"
#include "cpu/kquant/loops.h"
}  // namespace qcore::vnni256

QCORE_END_TARGET

namespace qcore {
namespace {

using namespace testing;

TEST(KquantVnni256, IsTheReferenceBitForBit) {
  if (detected_isa() != Isa::avx512) GTEST_SKIP() << "needs AVX512";
  const Row<Kquant>& reference = *runnable_rows<Kquant>().back();
  Rng rng(51);
  for (const BlockFormat& format : block_formats()) {
    for (int i = 0; i < 40; ++i) {
      const KquantData data = random_data(random_kquant_case(format, rng), rng);
      const PackedKquant packed = data.pack(reference.weight_layout());
      Output expected(data.shape.dtype, data.shape.m * data.shape.weight.n);
      Output y(data.shape.dtype, data.shape.m * data.shape.weight.n);
      ASSERT_TRUE(reference.run(data.args(packed.view, expected.data()), {}).ok());
      ASSERT_TRUE(vnni256::kquant_gemm(data.args(packed.view, y.data()), {}).ok());
      ASSERT_TRUE(y == expected && y.guards_hold()) << describe(data.shape);
    }
  }
}

}  // namespace
}  // namespace qcore

#endif
