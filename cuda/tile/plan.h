// How one product is cut up for a GPU: which variant of the kernel, how many blocks, what must be
// prepared before and added up after. Plain host code: the choice is tested where no GPU is.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "qcore/status.h"
#include "tile/schedule.h"
#include "tile/shape.h"

namespace qcore::tile {

constexpr int rows_of(VariantKey key) {
  return kWarps / key.warps_k * kWarpRows;
}

struct DeviceLimits {
  int multiprocessors;
  int shared_bytes;  // that one block may have
};
// By compute capability, 90 for 9.0: the CUDA programming guide's table.
constexpr int shared_bytes_of(int sm) {
  if (sm == 86 || sm == 89 || sm >= 120) return 99 << 10;
  return (sm < 90 ? 163 : 227) << 10;
}

struct Plan {
  int tokens;  // of one pass: more are multiplied in several, so that the workspace stays small
  VariantKey variant;
  int slices, token_blocks, splits;  // blocks along N, M (of several experts at most) and K
  int split_chunks;                  // chunks of K for each split
  int shared_bytes;
  bool gather;             // activations are copied into the order of the packed columns
  int64_t gathered_bytes;  // at the start of the workspace
  int64_t partial_bytes;   // after them: fp32 sums of the splits
  int64_t workspace_bytes() const { return gathered_bytes + partial_bytes; }
};

// One product as the planner sees it, whatever the format of its weight.
struct Work {
  int64_t m, n;
  int64_t chunks;           // along the padded K
  int chunk_columns, bits;  // bits: of a weight, about
  bool gather, batch_invariant;
  std::span<const VariantKey> variants;  // of equal tokens the widest first
  std::function<int(VariantKey)> shared_bytes;
  int64_t experts = 1;  // among which the m rows of x are divided
};

Plan choose_plan(const Work& work, const DeviceLimits& limits);
// The plan with a given variant and number of splits, for tests and for tuning.
Plan make_plan(const Work& work, VariantKey variant, int splits);

// How many of m tokens one pass takes, if each needs so much of the workspace.
int64_t pass_tokens(int64_t m, int64_t bytes_per_token);

// The reason why no row takes the weights of several experts yet: their kernels are not built.
Status takes_one_expert(int64_t experts);

// Copies of 16 bytes need aligned rows and places that 32 bits can count.
bool activations_fit(const void* x, int64_t m, int64_t x_stride, int64_t k);

inline constexpr int64_t kMostWorkspaceBytes = int64_t{64} << 20;  // of a pass, where it can be cut
inline constexpr int64_t kWorkspaceAlignment = 256;                // of its parts

}  // namespace qcore::tile
