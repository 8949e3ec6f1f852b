#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <set>
#include <tuple>

#include "cpu/schedule.h"
#include "expert_cases.h"
#include "thread_pool.h"

namespace qcore {
namespace {

using namespace testing;

struct Taken {
  int64_t expert, first, rows, step;
  auto operator<=>(const Taken&) const = default;
};

// Every step of every block, and how often it was run.
std::map<Taken, int> share(const Schedule& schedule, int64_t steps, int64_t grain,
                           const Parallel& parallel) {
  std::map<Taken, int> taken;
  std::mutex mutex;
  schedule.for_each_pass([&](const Pass& pass) {
    const auto work = [&](const RowBlock& b) { return Work{steps, 3 * b.rows}; };
    pass.share(parallel, grain, work, [&](const RowBlock& b, int64_t begin, int64_t end) {
      const std::lock_guard lock(mutex);
      EXPECT_LT(begin, end);
      for (int64_t s = begin; s < end; ++s) ++taken[{b.expert, b.first, b.rows, s}];
    });
  });
  return taken;
}

TEST(Schedule, HandsOutEveryStepOfEveryRowOnce) {
  ThreadPool three(3);
  Rng rng(91);
  for (int i = 0; i < 300; ++i) {
    const std::vector<int64_t> rows = random_expert_rows(rng);
    const std::vector<int32_t> offsets = offsets_of(rows);
    const int64_t multiple = pick<int64_t>(rng, {1, 16});
    const Cut cut{multiple * uniform(rng, 1, 100), multiple};
    const int64_t capacity = uniform(rng, 1, 500), steps = uniform(rng, 1, 40);
    const Schedule schedule(offsets.back(), static_cast<int64_t>(rows.size()), offsets.data(), cut,
                            capacity, [](int64_t count) { return count + 5; });
    const auto taken =
        share(schedule, steps, uniform(rng, 1, 200), i % 2 ? three.parallel() : Parallel{});
    std::set<std::tuple<int64_t, int64_t, int64_t>> covered;  // row, step, expert
    for (const auto& [at, count] : taken) {
      ASSERT_EQ(count, 1);
      ASSERT_LE(at.rows, cut.most);
      const auto e = static_cast<size_t>(at.expert);
      ASSERT_TRUE(at.rows % multiple == 0 || at.first + at.rows == offsets[e + 1]);
      for (int64_t m = at.first; m < at.first + at.rows; ++m) {
        ASSERT_GE(m, offsets[e]);
        ASSERT_LT(m, offsets[e + 1]);
        ASSERT_TRUE(covered.insert({m, at.step, at.expert}).second);
      }
    }
    ASSERT_EQ(static_cast<int64_t>(covered.size()), offsets.back() * steps);
  }
}

TEST(Schedule, CopiesOfAPassDoNotOverlapAndFit) {
  Rng rng(92);
  for (int i = 0; i < 200; ++i) {
    const std::vector<int64_t> rows = random_expert_rows(rng);
    const std::vector<int32_t> offsets = offsets_of(rows);
    const int64_t capacity = uniform(rng, 1, 500);
    const auto size = [](int64_t count) { return 3 * count + 1; };
    const Schedule schedule(offsets.back(), static_cast<int64_t>(rows.size()), offsets.data(),
                            {.most = 64}, capacity, size);
    schedule.for_each_pass([&](const Pass& pass) {
      int64_t end = 0, blocks = 0;
      const auto work = [](const RowBlock&) { return Work{1, 1}; };
      pass.share({}, 1, work, [&](const RowBlock& b, int64_t, int64_t) {
        ASSERT_EQ(b.copy, end);
        end += size(b.rows);
        ++blocks;
      });
      ASSERT_LE(end, schedule.copy_size());
      ASSERT_TRUE(end <= capacity || blocks == 1);
    });
  }
}

// Where experts have few rows and many, ranges of the loop hold like amounts of work.
TEST(Schedule, StepsCountByWhatTheyCost) {
  const int32_t offsets[] = {0, 1, 65, 66, 67};
  const Schedule schedule(67, 4, offsets, {.most = 128}, 1000, [](int64_t rows) { return rows; });
  int64_t slots = 0, in_first_half = 0;
  const Parallel halves{
      .run =
          [](void* pool, int64_t count, int64_t, Parallel::Body body, void* state) {
            *static_cast<int64_t*>(pool) = count;
            body(state, 0, count / 2);
            body(state, count / 2, count);
          },
      .pool = &slots};
  bool second = false;
  schedule.for_each_pass([&](const Pass& pass) {
    const auto work = [](const RowBlock& b) { return Work{100, b.rows}; };
    pass.share(halves, 1, work, [&](const RowBlock& b, int64_t begin, int64_t end) {
      if (b.rows == 64 && begin > 0) second = true;
      if (!second) in_first_half += b.rows * (end - begin);
    });
  });
  EXPECT_EQ(slots, 6700);
  EXPECT_NEAR(static_cast<double>(in_first_half), 3350, 64);
}

TEST(Schedule, ADenseProblemIsOneExpertAndItsStepsTheSlots) {
  const Schedule schedule(100, 1, nullptr, {.most = 128}, 1, [](int64_t rows) { return rows; });
  EXPECT_EQ(schedule.copy_size(), 100);
  int64_t count = 0, grain = 0;
  struct Seen {
    int64_t &count, &grain;
  } seen{count, grain};
  const Parallel looking{.run =
                             [](void* pool, int64_t slots, int64_t least, Parallel::Body, void*) {
                               static_cast<Seen*>(pool)->count = slots;
                               static_cast<Seen*>(pool)->grain = least;
                             },
                         .pool = &seen};
  schedule.for_each_pass([&](const Pass& pass) {
    pass.share(
        looking, 1000, [](const RowBlock&) { return Work{37, 300}; },
        [](const RowBlock&, int64_t, int64_t) {});
  });
  EXPECT_EQ(count, 37);
  EXPECT_EQ(grain, 4);
}

TEST(Schedule, WithoutRowsThereIsNoPass) {
  const int32_t offsets[] = {0, 0, 0};
  const Schedule schedule(0, 2, offsets, {.most = 8}, 100, [](int64_t rows) { return rows; });
  EXPECT_EQ(schedule.copy_size(), 0);
  schedule.for_each_pass([](const Pass&) { FAIL(); });
}

}  // namespace
}  // namespace qcore
