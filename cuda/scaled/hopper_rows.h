// What the rows int8_sm90 and fp8_sm90 run (hopper_rows.cu).
#pragma once

#include "scaled/hopper_tile.h"

namespace qcore::scaled {

Status hopper_workspace_bytes(const ScaledArgs& args, const Executor& executor, int64_t& bytes);
Status hopper_gemm(const ScaledArgs& args, const Executor& executor);

}  // namespace qcore::scaled
