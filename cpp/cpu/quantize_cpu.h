// The CPU rows of ops "quantize_int8" and "quantize_fp8".
#pragma once

#include "qcore/quantize.h"

namespace qcore {

namespace reference {
Status quantize_int8(const QuantizeInt8Args& args, const Executor& executor);
Status quantize_fp8(const QuantizeFp8Args& args, const Executor& executor);
}  // namespace reference

}  // namespace qcore
