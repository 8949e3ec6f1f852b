#include "tile/plan.h"

#include <algorithm>
#include <limits>
#include <string>

namespace qcore::tile {
namespace {

int64_t blocks_of(const Work& work, VariantKey key) {
  return ceil_div(work.n, rows_of(key)) * tiles_across(work.m, work.experts, key.token_tiles * 8);
}

// Every warp must be left with enough chunks to fill its pipeline.
int64_t least_chunks(const Work& work) {
  return 256 / work.chunk_columns;
}

// How many blocks should share the K of one tile. More blocks share the weights, but the sums must
// be added up: by a launch of its own, and through fp32 sums that are written and read. All of it
// counted in bytes that a multiprocessor could move meanwhile.
int64_t choose_splits(const Work& work, VariantKey key, int64_t multiprocessors) {
  constexpr int64_t kLaunch = 80 << 10;  // about 2 microseconds
  const int64_t tokens = key.token_tiles * 8, rows = rows_of(key);
  const int64_t sums = 2 * 4 * tokens * rows;
  // From 32 tokens on the arithmetic takes longer than the weights.
  const int64_t time =
      rows * work.chunks * work.chunk_columns * work.bits / 8 * std::max<int64_t>(1, tokens / 32);
  if (work.experts > 1) return 1;  // reduce.cuh knows one bias
  const int64_t most = std::min(multiprocessors / blocks_of(work, key),
                                work.chunks / (least_chunks(work) * key.warps_k));
  int64_t best = 1, least = time;
  for (int64_t splits = 2; splits <= most; ++splits) {
    const int64_t cost = time / splits + kLaunch + sums;
    if (cost < least) best = splits, least = cost;
  }
  return best;
}

}  // namespace

Status takes_one_expert(int64_t experts) {
  if (experts == 1) return {};
  return Status::unsupported("takes one expert, the weight has " + std::to_string(experts) +
                             ": grouped products on CUDA come with mixture of experts");
}

bool activations_fit(const void* x, int64_t m, int64_t x_stride, int64_t k) {
  const bool near = (m - 1) * (x_stride / 8) + k / 8 <= std::numeric_limits<uint32_t>::max();
  return near && reinterpret_cast<uintptr_t>(x) % 16 == 0 && k % 8 == 0 &&
         (m <= 1 || x_stride % 8 == 0);
}

int64_t pass_tokens(int64_t m, int64_t bytes_per_token) {
  // A few hundred tokens already fill the GPU; each pass is a whole number of blocks.
  constexpr int64_t kPass = 512;
  const int64_t most = kMostWorkspaceBytes / std::max<int64_t>(1, bytes_per_token) / kPass * kPass;
  return std::min(m, std::max(most, kPass));
}

Plan make_plan(const Work& work, VariantKey variant, int splits) {
  const int chunks = static_cast<int>(work.chunks);
  Plan plan{};
  plan.variant = variant;
  plan.slices = static_cast<int>(ceil_div(work.n, rows_of(variant)));
  plan.split_chunks = static_cast<int>(ceil_div(chunks, std::clamp(splits, 1, chunks)));
  plan.splits = static_cast<int>(ceil_div(chunks, plan.split_chunks));
  plan.shared_bytes = work.shared_bytes(variant);
  plan.gather = work.gather;

  const int64_t width = int64_t{plan.slices} * rows_of(variant);
  // Bytes per token.
  const int64_t gathered = plan.gather ? work.chunks * work.chunk_columns * 2 : 0;
  const int64_t partial = plan.splits > 1 ? plan.splits * width * 4 : 0;
  plan.tokens = static_cast<int>(pass_tokens(work.m, gathered + partial));
  plan.token_blocks =
      static_cast<int>(tiles_across(plan.tokens, work.experts, variant.token_tiles * 8));
  plan.gathered_bytes = ceil_div(plan.tokens * gathered, kWorkspaceAlignment) * kWorkspaceAlignment;
  plan.partial_bytes = plan.tokens * partial;
  return plan;
}

// Many rows to a block read the activations less often; but the blocks should fill the GPU. So: the
// widest variant that gives every multiprocessor a block, else the narrowest, cut along K as well.
Plan choose_plan(const Work& work, const DeviceLimits& limits) {
  const int64_t enough = limits.multiprocessors;
  const auto fits = [&](VariantKey key) { return work.shared_bytes(key) <= limits.shared_bytes; };
  // The fewest tokens that hold all, or the most that fit.
  VariantKey best = work.variants.front();
  for (const VariantKey& key : work.variants) {
    if (best.token_tiles * 8 < work.m && key.token_tiles > best.token_tiles && fits(key)) {
      best = key;
    }
  }

  if (work.batch_invariant) {
    // The order of the sums may depend on the weight and the GPU alone: one part of K per block,
    // and as many splits as a single block of tokens would want. Many tokens pay for the splits
    // with traffic, hence the bound.
    constexpr int64_t kMostSplits = 4;
    const int64_t wanted = enough / ceil_div(work.n, rows_of(best));
    return make_plan(
        work, best,
        static_cast<int>(std::min({wanted, kMostSplits, work.chunks / least_chunks(work)})));
  }

  for (const VariantKey& key : work.variants) {
    if (key.token_tiles != best.token_tiles || !fits(key) ||
        work.chunks < key.warps_k * least_chunks(work)) {
      continue;
    }
    best = key;
    if (blocks_of(work, key) >= enough) break;
  }
  return make_plan(work, best, static_cast<int>(choose_splits(work, best, enough)));
}

}  // namespace qcore::tile
