// How a product with a weight in a block format is cut up for a GPU. Plain host code.
#pragma once

#include "kquant/packed.h"
#include "qcore/kquant.h"
#include "tile/plan.h"

namespace qcore::kquant {

tile::Plan choose_plan(const KquantArgs& args, const tile::DeviceLimits& limits);
// The plan with a given variant and number of splits, for tests and for tuning.
tile::Plan make_plan(const KquantArgs& args, tile::VariantKey variant, int splits);

// What the kernel cannot take (fp32 activations, sizes beyond its counters), with the reason.
Status supports(const Kquant::Problem& problem);

}  // namespace qcore::kquant
