// Which tiles the schedulers of cuda/tile hand out, without a GPU: each exactly once, and with
// experts none that crosses from one to the next.
#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <set>
#include <tuple>
#include <vector>

#include "cases.h"
#include "tile/plan.h"
#include "tile/schedule.h"

namespace qcore {
namespace {

using namespace testing;
using tile::Tiles;

constexpr auto kLoad = [](const auto* from) { return *from; };

TEST(TileSchedule, DenseTilesComeOnceEach) {
  Rng rng(90);
  for (int i = 0; i < 200; ++i) {
    const int tokens = pick(rng, {8, 16, 64, 128});
    const Tiles tiles{.m = static_cast<int>(uniform(rng, 1, 3000)),
                      .across = static_cast<int>(uniform(rng, 1, 40)),
                      .along = static_cast<int>(uniform(rng, 1, 40))};
    std::set<std::pair<int, int>> seen;
    for (int index = 0; index < tiles.count(); ++index) {
      const auto at = tile::place_of<false>(tiles, index, tokens, kLoad);
      EXPECT_EQ(at.token % tokens, 0);
      EXPECT_TRUE(at.token / tokens < tiles.across && at.along >= 0 && at.along < tiles.along);
      EXPECT_EQ(at.token_end(tiles), tiles.m);
      EXPECT_EQ(at.expert, 0);
      seen.insert({at.token, at.along});
    }
    EXPECT_EQ(std::ssize(seen), tiles.count());
  }
}

// Blocks that run side by side work at 8 tiles of tokens at most, so that both operands stay in the
// cache.
TEST(TileSchedule, NeighboursShareBothOperands) {
  const Tiles tiles{.m = 32 * 64, .across = 32, .along = 50};
  for (int first = 0; first + 64 <= tiles.count(); first += 64) {
    std::set<int> tokens, along;
    for (int index = first; index < first + 64; ++index) {
      const auto at = tile::place_of<false>(tiles, index, 64, kLoad);
      tokens.insert(at.token);
      along.insert(at.along);
    }
    EXPECT_LE(tokens.size() + along.size(), 8u + 8 + 9);
  }
}

std::vector<int32_t> random_offsets(Rng& rng, int experts) {
  std::vector<int32_t> offsets{0};
  for (int e = 0; e < experts; ++e) {
    offsets.push_back(offsets.back() + static_cast<int32_t>(pick<int64_t>(
                                           rng, {0, 0, 1, 16, uniform(rng, 0, 200)})));
  }
  return offsets;
}

TEST(TileSchedule, EveryRowOfEveryExpertIsInOneTile) {
  Rng rng(91);
  for (int i = 0; i < 200; ++i) {
    const int experts = static_cast<int>(uniform(rng, 1, 12));
    const std::vector<int32_t> offsets = random_offsets(rng, experts);
    // A pass begins at some row, and ends at another.
    const int first = static_cast<int>(pick<int64_t>(rng, {0, 0, uniform(rng, 0, offsets.back())}));
    const int m = static_cast<int>(
        pick<int64_t>(rng, {offsets.back() - first, uniform(rng, 0, offsets.back() - first)}));
    const int tokens = pick(rng, {8, 16, 64, 128});
    const Tiles tiles{.m = m,
                      .across = static_cast<int>(tile::tiles_across(m, experts, tokens)),
                      .along = static_cast<int>(uniform(rng, 1, 20)),
                      .experts = experts,
                      .offsets = offsets.data(),
                      .first = first};
    std::map<std::pair<int, int>, int> expert_of;  // of row and tile along N
    for (int index = 0; index < tiles.count(); ++index) {
      const auto at = tile::place_of<true>(tiles, index, tokens, kLoad);
      if (!at.exists()) continue;
      ASSERT_TRUE(at.along >= 0 && at.along < tiles.along);
      for (int row = at.token; row < std::min(at.token + tokens, at.token_end(tiles)); ++row) {
        ASSERT_TRUE(expert_of.insert({{row, at.along}, at.expert}).second) << "a row has two tiles";
      }
    }
    ASSERT_EQ(std::ssize(expert_of), static_cast<int64_t>(m) * tiles.along);
    for (const auto& [place, expert] : expert_of) {
      const int row = place.first + first;
      EXPECT_TRUE(row >= offsets[static_cast<size_t>(expert)] &&
                  row < offsets[static_cast<size_t>(expert) + 1]);
    }
  }
}

TEST(TileSchedule, OneExpertHasTheTilesOfTheDenseProduct) {
  const int32_t offsets[] = {0, 1000};
  const Tiles tiles{.m = 1000,
                    .across = static_cast<int>(tile::tiles_across(1000, 1, 64)),
                    .along = 7,
                    .experts = 1,
                    .offsets = offsets};
  EXPECT_EQ(tiles.across, 16);
  for (int index = 0; index < tiles.count(); ++index) {
    const auto dense = tile::place_of<false>(tiles, index, 64, kLoad);
    const auto expert = tile::place_of<true>(tiles, index, 64, kLoad);
    EXPECT_EQ(std::tuple(0, dense.token, dense.along),
              std::tuple(expert.expert, expert.token, expert.along));
  }
}

TEST(TileSchedule, RowsTakeOneExpertForNow) {
  EXPECT_TRUE(tile::takes_one_expert(1).ok());
  EXPECT_NE(tile::takes_one_expert(8).message().find("takes one expert, the weight has 8"),
            std::string::npos);
}

}  // namespace
}  // namespace qcore
