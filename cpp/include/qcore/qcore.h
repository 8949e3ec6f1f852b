// The public interface of the core: raw pointers in, Status out, no torch anywhere.
//
//   qcore::IntGroup shape{.n = N, .k = K, .group_size = 128, .bits = 4};
//   auto choice = qcore::select("w4a16", {.weight = shape});
//   auto sizes = choice.row->packed_sizes(shape);          // allocate, then
//   choice.row->pack(shape, codes, scales, nullptr, qweight, packed_scales, nullptr, {});
//   qcore::w4a16_gemm(args, {});                           // selects a row by the weight's layout
#pragma once

#include "qcore/formats.h"
#include "qcore/kernel.h"
#include "qcore/parallel.h"
#include "qcore/status.h"
#include "qcore/types.h"

namespace qcore {

// Selects the row for the problem, checks the arguments and runs it.
Status w4a16_gemm(const W4A16Args& args, const Parallel& parallel);

const char* version();

}  // namespace qcore
