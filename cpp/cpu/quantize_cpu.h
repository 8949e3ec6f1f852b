// The CPU rows of ops "quantize_int8" and "quantize_fp8".
#pragma once

#include "qcore/quantize.h"

namespace qcore {

namespace reference {
Status quantize_int8(const QuantizeInt8Args& args, const Executor& executor);
Status quantize_fp8(const QuantizeFp8Args& args, const Executor& executor);
}  // namespace reference
namespace avx2::quantize {
Status quantize_int8(const QuantizeInt8Args& args, const Executor& executor);
Status quantize_fp8(const QuantizeFp8Args& args, const Executor& executor);
}  // namespace avx2::quantize
namespace avx512::quantize {
Status quantize_int8(const QuantizeInt8Args& args, const Executor& executor);
Status quantize_fp8(const QuantizeFp8Args& args, const Executor& executor);
}  // namespace avx512::quantize

}  // namespace qcore
