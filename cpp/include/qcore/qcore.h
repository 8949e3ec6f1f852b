// The public interface of the core: raw pointers in, Status out, no torch anywhere.
//
//   qcore::IntGroup shape{.n = N, .k = K, .group_size = 128, .bits = 4};
//   auto choice = qcore::select("w4a16", {.weight = shape});
//   const qcore::Layout& layout = *choice.row->layout;
//   auto sizes = layout.packed_sizes(shape);               // allocate, then
//   qcore::pack(layout, {shape, {codes}, scales}, {qweight, packed_scales}, {});
//   qcore::w4a16_gemm(args, {});                           // selects a row by the weight's layout
#pragma once

#include "qcore/blocks.h"
#include "qcore/executor.h"
#include "qcore/formats.h"
#include "qcore/kernel.h"
#include "qcore/layout.h"
#include "qcore/status.h"
#include "qcore/types.h"

namespace qcore {

// Selects the row for the problem, checks the arguments and runs it.
Status w4a16_gemm(const W4A16Args& args, const Executor& executor);

// How much memory of the executor's device the call above needs at args.workspace, 256-byte
// aligned. It must be the call's own until the stream is done with it.
Status w4a16_workspace_bytes(const W4A16Args& args, const Executor& executor, int64_t& bytes);

const char* version();

}  // namespace qcore
