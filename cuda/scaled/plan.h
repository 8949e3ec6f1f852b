// How one product of 8-bit matrices is cut up for a GPU. Plain host code: the choice is tested
// where no GPU is.
#pragma once

#include <cstdint>
#include <span>

#include "qcore/scaled.h"
#include "scaled/variant.h"

namespace qcore::scaled {

struct Limits {
  int multiprocessors;
  int shared_bytes;      // that one block may have
  int all_shared_bytes;  // of a multiprocessor
};

struct Plan {
  int tokens;                        // of a block: names the variant
  int slices, token_blocks, splits;  // blocks along N, M (of several experts at most) and K
  int split_chunks;                  // chunks of K for each split
  int shared_bytes;
  int blocks;  // of the launch. Fused: as many as run at the same time, which then take turns

  int64_t works() const { return int64_t{slices} * token_blocks * splits; }
};

// One product as the planner sees it.
struct Work {
  int64_t m, n, k;
  bool fused;                   // x is quantized in the same launch
  std::span<const int> tokens;  // of the variants that are built, ascending
  int64_t experts = 1;          // among which the m rows of x are divided
};

Work work_of(const ScaledArgs& args);

// The cheapest of all variants and numbers of splits, by the estimate in plan.cpp.
Plan choose_plan(const Work& work, const Limits& limits);
// The plan with a given variant and number of splits, for tests and for tuning.
Plan make_plan(const Work& work, int tokens, int splits, const Limits& limits);

// Where the parts of the workspace begin.
struct Workspace {
  int64_t q = 0, scale = 0, zero = 0, w_sum = 0, partial = 0, bytes = 0;
};
Workspace workspace_of(const ScaledArgs& args, const Plan& plan);
// For the rows that quantize and multiply in launches of their own.
Workspace reference_workspace_of(const ScaledArgs& args);

// What the kernel cannot take.
Status supports(const ScaledProblem& problem);

}  // namespace qcore::scaled
