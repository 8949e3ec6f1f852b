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

// Copies of 16 bytes need aligned rows, columns where the packed weight has them, and places that
// 32 bits can count.
bool needs_gather(const W4A16Args& args, const Geometry& g) {
  const bool far =
      (args.m - 1) * (args.x_stride / 8) + g.k / 8 > std::numeric_limits<uint32_t>::max();
  const bool aligned = reinterpret_cast<uintptr_t>(args.x) % 16 == 0 && g.k % 8 == 0 &&
                       (args.m <= 1 || args.x_stride % 8 == 0);
  return args.perm || !aligned || far || g.columns_move();
}

constexpr int64_t kAlignment = 256;

// Every warp must be left with enough chunks to fill its pipeline.
constexpr int64_t least_chunks(const IntGroup& w) {
  return 256 / chunk_columns(w.bits);
}

}  // namespace

Status supports(const W4A16::Problem& problem) {
  const IntGroup& w = problem.weight;
  if (Status status = w.check(); !status.ok()) return status;
  if (problem.m > 0 && problem.dtype == DType::f32) {  // packing does not know the dtype yet
    return Status::unsupported("multiplies fp16 and bf16 activations, these are fp32");
  }
  const Geometry g(w);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (problem.m > kMost / 2 || g.halves > kMost / 2 || g.qweight_bytes() / 16 > kMost ||
      g.parameters() / 4 > kMost || problem.m * (g.padded_k() / 8) > 2 * kMost) {
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
  plan.split_chunks = static_cast<int>(ceil_div(chunks, std::clamp(splits, 1, chunks)));
  plan.splits = static_cast<int>(ceil_div(chunks, plan.split_chunks));
  plan.shared_bytes = shared_bytes(args.weight.shape, variant);
  plan.gather = needs_gather(args, g);

  const int64_t width = int64_t{plan.slices} * rows_of(variant);
  const int64_t gathered = plan.gather ? g.padded_k() * 2 : 0;  // bytes per token
  const int64_t partial = plan.splits > 1 ? plan.splits * width * 4 : 0;
  // A few hundred tokens already fill the GPU; each pass is a whole number of blocks.
  constexpr int64_t kPass = 512;
  const int64_t most =
      kMostWorkspaceBytes / std::max<int64_t>(1, gathered + partial) / kPass * kPass;
  plan.tokens = static_cast<int>(std::min(args.m, std::max(most, kPass)));
  plan.token_blocks = static_cast<int>(ceil_div(plan.tokens, variant.token_tiles * 8));
  plan.gathered_bytes = ceil_div(plan.tokens * gathered, kAlignment) * kAlignment;
  plan.partial_bytes = plan.tokens * partial;
  return plan;
}

// How many blocks should share the K of one tile. More blocks share the weights, but the sums must
// be added up: by a launch of its own, and through fp32 sums that are written and read. All of it
// counted in bytes that a multiprocessor could move meanwhile.
int64_t choose_splits(const W4A16Args& args, VariantKey key, int64_t multiprocessors) {
  const IntGroup& w = args.weight.shape;
  const int64_t chunks = Geometry(w).chunks;
  constexpr int64_t kLaunch = 80 << 10;  // about 2 microseconds
  const int64_t tokens = key.token_tiles * 8, rows = rows_of(key);
  const int64_t sums = 2 * 4 * tokens * rows;
  // From 32 tokens on the arithmetic takes longer than the weights.
  const int64_t work = rows * chunks * chunk_columns(w.bits) * stored_bits(w.bits) / 8 *
                       std::max<int64_t>(1, tokens / 32);
  const int64_t most =
      std::min(multiprocessors / blocks_of(args, key), chunks / (least_chunks(w) * key.warps_k));
  int64_t best = 1, least = work;
  for (int64_t splits = 2; splits <= most; ++splits) {
    const int64_t cost = work / splits + kLaunch + sums;
    if (cost < least) best = splits, least = cost;
  }
  return best;
}

// Many rows to a block read the activations less often; but the blocks should fill the GPU. So: the
// widest variant that gives every multiprocessor a block, else the narrowest, cut along K as well.
Plan choose_plan(const W4A16Args& args, const DeviceLimits& limits) {
  const IntGroup& w = args.weight.shape;
  const int64_t chunks = Geometry(w).chunks, enough = limits.multiprocessors;
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
                     static_cast<int>(std::min({wanted, kMostSplits, chunks / least_chunks(w)})));
  }

  VariantKey best{token_tiles, 1};
  for (const VariantKey& key : kVariants) {
    if (key.token_tiles != token_tiles || !fits(key) || chunks < key.warps_k * least_chunks(w)) {
      continue;
    }
    best = key;
    if (blocks_of(args, key) >= enough) break;
  }
  return make_plan(args, best, static_cast<int>(choose_splits(args, best, enough)));
}

}  // namespace qcore::marlin
