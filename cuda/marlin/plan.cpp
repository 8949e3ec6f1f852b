#include "marlin/plan.h"

#include <algorithm>
#include <limits>
#include <string>

namespace qcore::marlin {
namespace {

int shared_bytes(const IntGroup& w, VariantKey key) {
  int bytes = std::numeric_limits<int>::max();
  with_variant(w, key, [&]<class V>() { bytes = V::shared_bytes(w.scale_dtype, w.has_zeros); });
  return bytes;
}

int rows_of(VariantKey key) {
  return kWarps / key.warps_k * kWarpRows;
}

int64_t blocks_of(const W4A16Args& args, VariantKey key) {
  return ceil_div(args.weight.shape.n, rows_of(key)) * ceil_div(args.m, key.token_tiles * 8);
}

int token_tiles_for(int64_t m) {
  int tiles = 1;
  while (tiles < 8 && tiles * 8 < m) tiles *= 2;
  return tiles;
}

// Copies of 16 bytes need aligned rows, and columns where the packed weight has them.
bool needs_gather(const W4A16Args& args, const Geometry& g) {
  const bool aligned = reinterpret_cast<uintptr_t>(args.x) % 16 == 0 && g.k % 8 == 0 &&
                       (args.m <= 1 || args.x_stride % 8 == 0);
  return args.perm || !aligned || g.columns_move();
}

constexpr int64_t kAlignment = 256;

}  // namespace

Status supports(const Problem& problem) {
  const IntGroup& w = problem.weight;
  if (Status status = w.check(); !status.ok()) return status;
  if (problem.dtype == DType::f32) {
    return Status::unsupported("multiplies fp16 and bf16 activations, these are fp32");
  }
  const Geometry g(w);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (problem.m > kMost / 2 || g.halves > kMost / 2 || g.qweight_bytes() / 16 > kMost ||
      g.parameters() / 4 > kMost || problem.m * (g.halves * kHalfColumns / 8) > 2 * kMost) {
    return Status::unsupported("counts in 32 bits, and this weight or batch is larger");
  }
  return {};
}

Plan make_plan(const W4A16Args& args, VariantKey variant, int splits) {
  const Geometry g(args.weight.shape);
  const int chunks = static_cast<int>(g.chunks);
  Plan plan{};
  plan.variant = variant;
  plan.slices = static_cast<int>(ceil_div(g.n, rows_of(variant)));
  plan.token_blocks = static_cast<int>(ceil_div(args.m, variant.token_tiles * 8));
  plan.split_chunks = static_cast<int>(ceil_div(chunks, std::clamp(splits, 1, chunks)));
  plan.splits = static_cast<int>(ceil_div(chunks, plan.split_chunks));
  plan.shared_bytes = shared_bytes(args.weight.shape, variant);
  plan.gather = needs_gather(args, g);
  if (plan.gather) {
    plan.gathered_bytes = ceil_div(args.m * g.padded_k() * 2, kAlignment) * kAlignment;
  }
  if (plan.splits > 1) {
    const int64_t width = int64_t{plan.slices} * rows_of(variant);
    plan.partial_bytes = plan.splits * args.m * width * 4;
  }
  return plan;
}

// Many rows to a block read the activations less often; but the blocks should fill the GPU. So: the
// widest variant that gives every multiprocessor a block, else the narrowest, cut along K as well.
Plan choose_plan(const W4A16Args& args, const DeviceLimits& limits) {
  const IntGroup& w = args.weight.shape;
  const int64_t chunks = Geometry(w).chunks, enough = limits.multiprocessors;
  // Every warp must be left with enough chunks to fill its pipeline.
  const int64_t least_chunks = 256 / chunk_columns(w.bits);
  const auto fits = [&](VariantKey key) { return shared_bytes(w, key) <= limits.shared_bytes; };
  int token_tiles = token_tiles_for(args.m);
  while (token_tiles > 1 && !fits({token_tiles, 1})) token_tiles /= 2;

  if (args.batch_invariant) {
    // The order of the sums may depend on the weight and the GPU alone: one part of K per block,
    // and as many splits as a single block of tokens would want. Many tokens pay for the splits
    // with traffic, hence the bound.
    const VariantKey key{token_tiles, 1};
    constexpr int64_t kMostSplits = 4;
    const int64_t wanted = enough / ceil_div(w.n, rows_of(key));
    return make_plan(args, key,
                     static_cast<int>(std::min({wanted, kMostSplits, chunks / least_chunks})));
  }

  VariantKey best{token_tiles, 1};
  for (const VariantKey& key : kVariants) {
    if (key.token_tiles != token_tiles || !fits(key) || chunks < key.warps_k * least_chunks)
      continue;
    best = key;
    if (blocks_of(args, key) >= enough) break;
  }
  // A split costs a pass over fp32 sums, so it must bring real parallelism.
  const int64_t splits =
      std::min(enough / blocks_of(args, best), chunks / (least_chunks * best.warps_k));
  return make_plan(args, best, static_cast<int>(splits));
}

}  // namespace qcore::marlin
