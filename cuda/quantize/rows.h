// What the CUDA rows of ops "quantize_int8" and "quantize_fp8" run.
#pragma once

#include "qcore/quantize.h"

namespace qcore::quantize {

Status supports(const QuantizeProblem& problem);
Status int8_workspace_bytes(const QuantizeInt8Args& args, const Executor& executor, int64_t& bytes);
Status fp8_workspace_bytes(const QuantizeFp8Args& args, const Executor& executor, int64_t& bytes);
Status int8(const QuantizeInt8Args& args, const Executor& executor);
Status fp8(const QuantizeFp8Args& args, const Executor& executor);

}  // namespace qcore::quantize
