// What the CUDA rows of ops "int8" and "fp8" run.
#pragma once

#include "qcore/fp8.h"
#include "qcore/int8.h"

namespace qcore::scaled {

Status workspace_bytes(const Int8Args& args, const Executor& executor, int64_t& bytes);
Status workspace_bytes(const Fp8Args& args, const Executor& executor, int64_t& bytes);
Status gemm(const Int8Args& args, const Executor& executor);
Status gemm(const Fp8Args& args, const Executor& executor);

Status reference_supports(const Int8Problem& problem);
Status reference_supports(const Fp8Problem& problem);
Status reference_workspace_bytes(const Int8Args& args, const Executor& executor, int64_t& bytes);
Status reference_workspace_bytes(const Fp8Args& args, const Executor& executor, int64_t& bytes);
Status reference_gemm(const Int8Args& args, const Executor& executor);
Status reference_gemm(const Fp8Args& args, const Executor& executor);

}  // namespace qcore::scaled
