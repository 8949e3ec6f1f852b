// The CPU rows of the quantizers, and what they share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "qcore/fake_quantize.h"
#include "qcore/quantize.h"

namespace qcore {

namespace reference {
Status quantize_int8(const QuantizeInt8Args& args, const Executor& executor);
Status quantize_fp8(const QuantizeFp8Args& args, const Executor& executor);
Status fake_quantize(const FakeQuantizeArgs& args, const Executor& executor);
Status fake_quantize_backward(const FakeQuantizeBackwardArgs& args, const Executor& executor);
}  // namespace reference
namespace avx2::quantize {
Status quantize_int8(const QuantizeInt8Args& args, const Executor& executor);
Status quantize_fp8(const QuantizeFp8Args& args, const Executor& executor);
Status fake_quantize(const FakeQuantizeArgs& args, const Executor& executor);
Status fake_quantize_backward(const FakeQuantizeBackwardArgs& args, const Executor& executor);
}  // namespace avx2::quantize
namespace avx512::quantize {
Status quantize_int8(const QuantizeInt8Args& args, const Executor& executor);
Status quantize_fp8(const QuantizeFp8Args& args, const Executor& executor);
Status fake_quantize(const FakeQuantizeArgs& args, const Executor& executor);
Status fake_quantize_backward(const FakeQuantizeBackwardArgs& args, const Executor& executor);
}  // namespace avx512::quantize

// How many parallel pieces rows are shared out in: at least this many elements in each.
inline constexpr int64_t kQuantizeGrain = 1 << 14;

inline int64_t rows_per_piece(int64_t k) {
  return std::max<int64_t>(1, kQuantizeGrain / k);
}

}  // namespace qcore
