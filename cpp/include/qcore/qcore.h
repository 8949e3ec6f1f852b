// The public interface of the core: raw pointers in, Status out, no torch anywhere.
//
//   qcore::ScaledWeight shape{.n = N, .k = K, .group_size = 128, .elements = qcore::Elements::u4};
//   auto choice = qcore::select<qcore::W4A16>({.weight = shape});
//   const qcore::ScaledLayout& layout = choice.row->weight_layout();
//   auto sizes = qcore::packed_sizes(layout, shape);       // allocate, then
//   qcore::pack(layout, {shape, {codes}, scales}, {qweight, packed_scales}, {});
//   qcore::w4a16_gemm(args, {});                           // selects a row by the weight's layout
#pragma once

#include "qcore/blocks.h"
#include "qcore/elements.h"
#include "qcore/executor.h"
#include "qcore/export.h"
#include "qcore/fake_quantize.h"
#include "qcore/formats.h"
#include "qcore/fp8.h"
#include "qcore/int8.h"
#include "qcore/isa.h"
#include "qcore/kernel.h"
#include "qcore/kquant.h"
#include "qcore/layout.h"
#include "qcore/memory.h"
#include "qcore/quantize.h"
#include "qcore/scaled.h"
#include "qcore/status.h"
#include "qcore/types.h"
#include "qcore/w4a16.h"

namespace QCORE_API qcore {

const char* version();

}  // namespace QCORE_API qcore
