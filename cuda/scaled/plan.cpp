#include "scaled/plan.h"

#include <limits>
#include <string>

#include "tile/plan.h"

namespace qcore::scaled {
namespace {

#define QCORE_SCALED_TOKENS(tokens, ...) tokens,
constexpr int kTokens[] = {QCORE_SCALED_VARIANTS(QCORE_SCALED_TOKENS)};
constexpr int kFewTokens[] = {QCORE_SCALED_FEW_VARIANTS(QCORE_SCALED_TOKENS)};
#undef QCORE_SCALED_TOKENS

constexpr int64_t kAlignment = 256;
constexpr int64_t kMostSplits = 16;
constexpr int64_t kLeastChunks = 4;  // of a split: enough to fill the pipeline

// In clocks, roughly those of an A100 or H100: products and bytes from the L2 cache that a
// multiprocessor can do in one, the start and end of a block, and a second launch.
constexpr int64_t kProducts = 2048, kBytes = 32, kBlock = 1500, kLaunch = 3000;

// What the plan costs, counted in clocks of the busiest multiprocessor.
int64_t cost(const Work& work, const Plan& plan, const Limits& limits) {
  const int64_t chunk = std::max<int64_t>(int64_t{kRows} * plan.tokens * kChunk / kProducts,
                                          (kRows + plan.tokens) * kChunk / kBytes);
  const int64_t rounds = ceil_div(plan.works(), limits.multiprocessors);
  int64_t clocks = rounds * (plan.split_chunks * chunk + kBlock);
  if (plan.splits > 1) {  // sums are written and read once more
    const int64_t sums = 2 * 4 * plan.splits * work.m * work.n;
    clocks += kLaunch + sums / kBytes / limits.multiprocessors;
  }
  return clocks;
}

int64_t aligned(int64_t bytes) {
  return ceil_div(bytes, kAlignment) * kAlignment;
}

int64_t scales_of(const ScaledArgs& args) {
  const Granularity scales = args.floats_scales();
  if (scales == Granularity::tensor) return 1;
  return args.m * (scales == Granularity::block ? ceil_div(args.w.k, kScaleBlock) : 1);
}

}  // namespace

Work work_of(const ScaledArgs& args) {
  const bool common =
      args.integers() || (args.x_type == Elements::e4m3 && args.w.elements == Elements::e4m3);
  return {args.m,
          args.w.n,
          args.w.k,
          args.floats.x != nullptr,
          common ? std::span<const int>(kTokens) : kFewTokens,
          args.w.experts};
}

Plan make_plan(const Work& work, int tokens, int splits, const Limits& limits) {
  const int chunks = static_cast<int>(ceil_div(work.k, kChunk));
  Plan plan{};
  plan.tokens = tokens;
  plan.slices = static_cast<int>(ceil_div(work.n, kRows));
  plan.token_blocks = static_cast<int>(tile::tiles_across(work.m, work.experts, tokens));
  plan.split_chunks = static_cast<int>(ceil_div(chunks, std::clamp(splits, 1, chunks)));
  plan.splits = static_cast<int>(ceil_div(chunks, plan.split_chunks));
  int resident = 1;
  with_variant(tokens, [&]<class V>() {
    plan.shared_bytes = V::kSharedBytes;
    // A block takes 1 KB more than it asks for.
    const int fit = limits.all_shared_bytes / (V::kSharedBytes + 1024);
    resident = std::clamp(fit, 1, V::kMinBlocks);
  });
  plan.blocks = static_cast<int>(plan.works());
  if (work.fused) {
    // Idle blocks would not harm the product, but more of them quantize faster.
    const int64_t wanted = std::max<int64_t>(plan.works(), work.m);
    plan.blocks =
        static_cast<int>(std::min<int64_t>(wanted, int64_t{resident} * limits.multiprocessors));
  }
  return plan;
}

Plan choose_plan(const Work& work, const Limits& limits) {
  const int64_t chunks = ceil_div(work.k, kChunk);
  // What adds up splits (finish.cuh) knows one expert.
  const int64_t most =
      work.experts > 1 ? 1 : std::clamp<int64_t>(chunks / kLeastChunks, 1, kMostSplits);
  Plan best{};
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const int tokens : work.tokens) {
    for (int64_t splits = 1; splits <= most; ++splits) {
      const Plan plan = make_plan(work, tokens, static_cast<int>(splits), limits);
      if (plan.splits != splits || plan.shared_bytes > limits.shared_bytes) continue;
      if (const int64_t clocks = cost(work, plan, limits); clocks < least) {
        best = plan, least = clocks;
      }
    }
  }
  return best;
}

Workspace workspace_of(const ScaledArgs& args, const Plan& plan) {
  Workspace at = reference_workspace_of(args);
  at.partial = at.bytes;
  if (plan.splits > 1) at.bytes += int64_t{plan.splits} * args.m * plan.slices * kRows * 4;
  return at;
}

// Quantized activations, if they are floats now, with what their scales need, and the sums over the
// weight's rows that zero points meet.
Workspace reference_workspace_of(const ScaledArgs& args) {
  Workspace at;
  if (args.floats.x) {
    at.scale = aligned(args.m * args.w.k);
    at.zero = at.scale + (args.x_scale ? 0 : aligned(scales_of(args) * 4));
    at.w_sum = at.zero + (args.finds_zeros() ? aligned(args.m * 4) : 0);
  }
  const bool sums = (args.x_zero || args.finds_zeros()) && !args.w_sum;
  at.partial = at.bytes = at.w_sum + (sums ? aligned(args.w.experts * args.w.n * 4) : 0);
  return at;
}

Status supports(const ScaledProblem& p) {
  const int64_t n = p.weight.n, k = p.weight.k;
  if (Status status = tile::takes_one_expert(p.weight.experts); !status.ok()) return status;
  if (!p.aligned || k % 16 != 0) {
    return Status::unsupported(
        "copies 16 bytes at a time, and x, the weight or their rows are not aligned to 16 bytes");
  }
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 2;
  if (p.m > kMost || n > kMost || k > kMost ||
      ceil_div(p.m, 8) * ceil_div(n, kRows) * kMostSplits > kMost) {
    return Status::unsupported("counts in 32 bits, and this product is larger");
  }
  return {};
}

}  // namespace qcore::scaled
