// What the CUDA rows of ops "int8" and "fp8" run.
#pragma once

#include "qcore/scaled.h"

namespace qcore::scaled {

Status workspace_bytes(const ScaledArgs& args, const Executor& executor, int64_t& bytes);
Status gemm(const ScaledArgs& args, const Executor& executor);

Status reference_supports(const ScaledProblem& problem);
Status reference_workspace_bytes(const ScaledArgs& args, const Executor& executor, int64_t& bytes);
Status reference_gemm(const ScaledArgs& args, const Executor& executor);

}  // namespace qcore::scaled
