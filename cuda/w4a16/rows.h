// The w4a16 kernels behind the CUDA rows.
#pragma once

#include "qcore/w4a16.h"

namespace qcore::w4a16 {

Status workspace_bytes(const W4A16Args& args, const Executor& executor, int64_t& bytes);
Status gemm(const W4A16Args& args, const Executor& executor);
// hopper_rows.cu
Status hopper_workspace_bytes(const W4A16Args& args, const Executor& executor, int64_t& bytes);
Status hopper_gemm(const W4A16Args& args, const Executor& executor);
Status reference_gemm(const W4A16Args& args, const Executor& executor);

}  // namespace qcore::w4a16
