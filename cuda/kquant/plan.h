// How a product with a weight in a block format is cut up for a GPU. Plain host code.
#pragma once

#include "kquant/packed.h"
#include "marlin/plan.h"
#include "qcore/kquant.h"

namespace qcore::kquant {

marlin::Plan choose_plan(const KquantArgs& args, const marlin::DeviceLimits& limits);
// The plan with a given variant and number of splits, for tests and for tuning.
marlin::Plan make_plan(const KquantArgs& args, marlin::VariantKey variant, int splits);

// What the kernel cannot take (fp32 activations, sizes beyond its counters), with the reason.
Status supports(const Kquant::Problem& problem);

}  // namespace qcore::kquant
