// The CUDA kernels of the block formats, run by the emulator: the same source that nvcc compiles.
#include <gtest/gtest.h>

#include <cmath>

#include "emulator.h"
#include "kquant/run.h"

namespace qcore {
namespace {

using namespace testing;
using simt::Access;

std::vector<uint8_t> random_bytes(int64_t count, Rng& rng) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(rng() >> 56);
  return bytes;
}

// Bytes that any file may hold, also infinite scales and NaN, and sizes around those of a tile.
TEST(KquantDequantize, GivesTheBitsOfTheCpu) {
  Rng rng = fresh_rng(61);
  for (const BlockFormat& format : block_formats()) {
    SCOPED_TRACE(format.name);
    const int64_t tile = 4096 / format.elements;
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const int64_t count =
          pick<int64_t>(rng, {1, 3, tile - 1, tile, tile + 1, 2 * tile + 5, uniform(rng, 1, tile)});
      const simt::Buffer blocks("blocks", random_bytes(count * format.bytes, rng));
      const size_t bytes = static_cast<size_t>(count * format.elements * size_of(dtype));
      const simt::Buffer out("out", bytes, Access::write_once);
      const Status status =
          kquant::run_dequantize(format, {blocks.data<char>(), count, dtype, out.data<char>()},
                                 Emulator(any_schedule(rng)));
      ASSERT_TRUE(status.ok()) << status.message();
      std::vector<char> expected(bytes);
      ASSERT_TRUE(
          decode_blocks(format, blocks.data<char>(), count, dtype, expected.data(), {}).ok());
      for (int64_t i = 0; i < count * format.elements; ++i) {
        const float want = load_scalar(dtype, expected.data(), i);
        const float got = load_scalar(dtype, out.data<char>(), i);
        if (std::isnan(want) && std::isnan(got)) continue;
        ASSERT_EQ(std::bit_cast<uint32_t>(want), std::bit_cast<uint32_t>(got))
            << name(dtype) << " count " << count << " at " << i;
      }
    }
  }
}

}  // namespace
}  // namespace qcore
