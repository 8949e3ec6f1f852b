#include "w4a16/hopper_plan.h"

#include <limits>

namespace qcore::w4a16 {
namespace {

// In one clock the matrix unit makes so many products, and 4 warps issue an instruction each.
constexpr double kProducts = 2048, kInstructions = 128;
// Instructions for a weight and for a sum, with what goes with them, and clocks to write a sum.
constexpr double kPerWeight = 1.7, kPerSum = 1.3, kPerWritten = 1.0 / 16;
// What part of the instructions does not hide behind the products.
constexpr double kExposed = 0.2;

double cost(const ScaledWeight& w, int64_t m, int64_t chunks, HopperTileKey tile,
            const tile::Split& split) {
  const double rows = tile.rows, tokens = tile.tokens, columns = kHopperColumns;
  const double sets = static_cast<double>(kHopperHalves) / flush_halves(w, kHopperHalves);
  const double weight_bytes = rows * columns * stored_bits(w.bits()) / 8;
  const double token_tiles = static_cast<double>(ceil_div(m, tile.tokens));
  // The weight comes from global memory once, and from the cache for all other tokens.
  const double instructions =
      (rows * columns * kPerWeight + rows * tokens * sets * kPerSum) / kInstructions;
  const double chunk = std::max({rows * tokens * columns / kProducts + kExposed * instructions,
                                 instructions, weight_bytes / kHopperGlobalBytes / token_tiles,
                                 (weight_bytes + tokens * columns * 2) / kHopperCacheBytes});
  const double tile_clocks = static_cast<double>(chunks) * chunk + rows * tokens * kPerWritten;
  double clocks =
      kHopperStart + static_cast<double>(ceil_div(split.whole, split.blocks)) * tile_clocks;
  if (split.sharing > 0) {
    const double bytes = 2 * rows * tokens * 4;  // of the sums of one block, written and read again
    clocks += static_cast<double>(ceil_div(split.shared_chunks(), split.sharing)) * chunk +
              2 * bytes / kHopperCacheBytes + kHopperLaunch;
  }
  return clocks;
}

}  // namespace

tile::Split HopperPlan::split(int64_t m, int64_t n, int64_t chunks) const {
  const auto tiles = static_cast<int>(ceil_div(n, tile.rows) * ceil_div(m, tile.tokens));
  tile::Split split{.tiles = tiles,
                    .chunks = static_cast<int>(chunks),
                    .blocks = std::min(tiles, multiprocessors),
                    .whole = tiles,
                    .sharing = 0};
  if (sharing == Sharing::nothing || tiles % multiprocessors == 0) return split;
  const int rounds = tiles / multiprocessors - (sharing == Sharing::rest_and_round ? 1 : 0);
  split.whole = std::max(rounds, 0) * multiprocessors;
  // A length of fewer chunks would take longer to begin and to end than to multiply.
  constexpr int64_t kLeastChunks = 4;
  split.sharing = static_cast<int>(
      std::clamp<int64_t>(split.shared_chunks() / kLeastChunks, 1, multiprocessors));
  split.blocks = std::max(split.sharing, std::min(split.whole, multiprocessors));
  return split;
}

HopperPlan make_hopper_plan(const W4A16Args& args, HopperTileKey tile, Sharing sharing,
                            int multiprocessors) {
  const Geometry g(args.weight.shape);
  // The copy engine may want rows apart.
  const bool gather = must_gather(args, g) || (args.m > 1 && args.x_stride == 0);
  const int64_t gathered = gather ? g.padded_k() * 2 : 0;  // bytes per token
  const int64_t tokens = tile::pass_tokens(args.m, gathered);
  const int64_t slots = sharing == Sharing::nothing ? 0 : int64_t{2} * multiprocessors;
  return {.tile = tile,
          .sharing = sharing,
          .multiprocessors = multiprocessors,
          .tokens = tokens,
          .gather = gather,
          .gathered_bytes =
              ceil_div(tokens * gathered, tile::kWorkspaceAlignment) * tile::kWorkspaceAlignment,
          .partial_bytes = slots * tile.rows * tile.tokens * 4};
}

HopperPlan choose_hopper_plan(const W4A16Args& args, int multiprocessors) {
  const ScaledWeight& w = args.weight.shape;
  const int64_t chunks = hopper_chunks(Geometry(w));
  HopperPlan best{};
  double least = std::numeric_limits<double>::infinity();
  for (const HopperTileKey& tile : kHopperTiles) {
    for (const Sharing sharing : {Sharing::nothing, Sharing::rest, Sharing::rest_and_round}) {
      const HopperPlan plan = make_hopper_plan(args, tile, sharing, multiprocessors);
      const double clocks =
          cost(w, plan.tokens, chunks, tile, plan.split(plan.tokens, w.n, chunks));
      if (clocks < least) best = plan, least = clocks;
    }
  }
  return best;
}

std::string describe_hopper_plan(const W4A16::Problem& problem) {
  if (problem.multiprocessors == 0 || problem.m == 0 || problem.weight.n == 0) return "";
  const HopperPlan plan = choose_hopper_plan(args_of(problem), problem.multiprocessors);
  const tile::Split split =
      plan.split(plan.tokens, problem.weight.n, hopper_chunks(Geometry(problem.weight)));
  std::string text = std::to_string(split.tiles) + " tiles of " + std::to_string(plan.tile.rows) +
                     " rows x " + std::to_string(plan.tile.tokens) + " tokens on " +
                     std::to_string(split.blocks) + " blocks";
  if (split.sharing > 0) {
    text += ", " + std::to_string(split.tiles - split.whole) + " of them shared by " +
            std::to_string(split.sharing);
  }
  return text + (plan.gather ? ", activations gathered first" : "");
}

Status hopper_supports(const W4A16::Problem& problem) {
  if (Status status = supports(problem); !status.ok()) return status;
  if (problem.sm != 0 && problem.sm != 90) {
    return Status::unsupported("runs on compute capability 9.0 alone");
  }
  if (problem.m > 0 && problem.m < kHopperLeastTokens) {
    return Status::unsupported("multiplies " + std::to_string(kHopperLeastTokens) +
                               " tokens or more, these are " + std::to_string(problem.m) +
                               ": their time is the memory's");
  }
  if (problem.batch_invariant) {
    return Status::unsupported("adds up in an order that depends on the number of tokens");
  }
  return {};
}

}  // namespace qcore::w4a16
