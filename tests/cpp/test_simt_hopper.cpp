// The emulator's Hopper: barriers, the copy engine, products of a warpgroup.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "hopper_cases.h"
#include "ptx/hopper.cuh"
#include "simt/planted_hopper.h"

namespace qcore {
namespace {

using namespace ptx;
using planted::Mistake;
using planted::Pipeline;
using planted::PlantedHopper;
using simt::Access;
using simt::Order;
using testing::map_of;
using testing::matrix;
using testing::random_bytes;

const std::vector<simt::Launch>& schedules() {
  static const std::vector<simt::Launch> all = {{.order = Order::ascending},
                                                {.order = Order::descending},
                                                {.order = Order::shuffled, .seed = 1},
                                                {.order = Order::shuffled, .seed = 2},
                                                {.order = Order::shuffled, .seed = 3}};
  return all;
}

// ---- The pipeline, with and without its mistakes

class Mistakes : public ::testing::TestWithParam<PlantedHopper> {};

void run_pipeline(simt::Launch launch, Mistake mistake, int chunks = 7) {
  std::mt19937 rng(11);
  const auto k = static_cast<size_t>(chunks) * 128;
  const std::vector<int8_t> a = random_bytes(64 * k, rng), b = random_bytes(32 * k, rng);
  const simt::Buffer in_a("a", a), in_b("b", b), out("d", 64 * 32 * 4, Access::write_once);
  const Pipeline pipeline{map_of(matrix(in_a.data<char>(), 1, 64, k, 64, 128, Swizzle::bytes128)),
                          map_of(matrix(in_b.data<char>(), 1, 32, k, 32, 128, Swizzle::bytes128)),
                          map_of(matrix(out.data<char>(), 4, 64, 32, 64, 16, Swizzle::none)),
                          chunks, mistake};
  launch.name = "pipeline";
  launch.threads = Pipeline::kThreads;
  launch.shared_bytes = Pipeline::kSharedBytes;
  simt::launch(launch, [&] { pipeline.run(); });
  const std::vector<float> d = out.values<float>();
  for (size_t m = 0; m < 64; ++m) {
    for (size_t n = 0; n < 32; ++n) {
      int64_t sum = 0;
      for (size_t i = 0; i < k; ++i) sum += int64_t{a[m * k + i]} * b[n * k + i];
      ASSERT_EQ(d[m * 32 + n], static_cast<float>(sum)) << m << " " << n;
    }
  }
}

TEST(SimtHopper, PipelineIsTheProductInEveryOrder) {
  for (const simt::Launch& schedule : schedules()) {
    for (const int chunks : {1, 2, 3, 7}) run_pipeline(schedule, Mistake::none, chunks);
  }
}

TEST_P(Mistakes, IsFoundInEveryOrder) {
  for (const simt::Launch& schedule : schedules()) {
    EXPECT_THROW(run_pipeline(schedule, GetParam().mistake), simt::Fault);
  }
  try {
    run_pipeline({}, GetParam().mistake);
  } catch (const simt::Fault& fault) {
    EXPECT_NE(std::string(fault.what()).find(GetParam().says), std::string::npos) << fault.what();
  }
}

INSTANTIATE_TEST_SUITE_P(Planted, Mistakes, ::testing::ValuesIn(planted::kPlantedHopper),
                         [](const auto& planted) { return std::string(planted.param.name); });

// ---- Ordinary accesses, ordered by barriers that only some threads meet at

// Warps 0 and 1 read what warp 2 wrote, then warp 2 writes again.
struct Exchange {
  bool reader_waits = true, both_release = true, lanes_meet = true;

  void operator()() const {
    constexpr SharedAddress kFull = 1024, kEmpty = 1032;
    const int thread = thread_index(), warp = thread / 32, lane = thread % 32;
    const auto mine = static_cast<SharedAddress>(lane * 4);
    if (thread == 0) {
      barrier_init(kFull, 32);
      barrier_init(kEmpty, 2);
    }
    sync_block();
    if (warp == 2) {
      for (uint32_t round = 0; round < 2; ++round) {
        if (round == 1) barrier_wait(kEmpty, 0);
        store_shared(mine, static_cast<float>(round));
        barrier_arrive(kFull);
      }
      return;
    }
    if (reader_waits || warp == 0) barrier_wait(kFull, 0);
    EXPECT_EQ(load_shared<float>(124 - mine), 0);
    if (lanes_meet) sync_warp();
    if (lane == 0 && (both_release || warp == 0)) barrier_arrive(kEmpty);
    if (lane == 1 && !both_release && warp == 0) barrier_arrive(kEmpty);
  }
};

std::string fault_of(simt::Launch launch, const std::function<void()>& body) {
  launch.threads = 96;
  launch.shared_bytes = 2048;
  try {
    simt::launch(launch, body);
  } catch (const simt::Fault& fault) {
    return fault.what();
  }
  return "";
}

TEST(SimtHopper, BarriersOrderOrdinaryAccesses) {
  for (const simt::Launch& schedule : schedules()) {
    EXPECT_EQ(fault_of(schedule, Exchange{}), "");
    EXPECT_NE(fault_of(schedule, Exchange{.reader_waits = false}), "");
    EXPECT_NE(fault_of(schedule, Exchange{.both_release = false}), "");
  }
  // The first lane speaks for the others only if they met before.
  std::string found;
  for (const simt::Launch& schedule : schedules()) {
    found += fault_of(schedule, Exchange{.lanes_meet = false});
  }
  EXPECT_NE(found.find("was read by thread"), std::string::npos) << found;
}

TEST(SimtHopper, NamedBarriersOrderThoseWhoMeet) {
  const auto body = [](bool wait) {
    const int thread = thread_index(), warp = thread / 32;
    const auto at = static_cast<SharedAddress>(thread % 32 * 4);
    if (warp == 0) store_shared(at, 1.f);
    if (warp == 0) arrive_named(3, 64);
    if (warp == 1 && wait) sync_named(3, 64);
    if (warp == 1) {
      EXPECT_EQ(load_shared<float>(124 - at), 1);
    }
    if (warp == 1 && !wait) arrive_named(3, 64);
  };
  for (const simt::Launch& schedule : schedules()) {
    EXPECT_EQ(fault_of(schedule, [&] { body(true); }), "");
    EXPECT_NE(fault_of(schedule, [&] { body(false); }), "");
  }
}

TEST(SimtHopper, OneLaneIsElectedAlwaysTheSame) {
  for (const simt::Launch& schedule : schedules()) {
    int chosen[3] = {-1, -1, -1};
    EXPECT_EQ(fault_of(schedule,
                       [&] {
                         for (int i = 0; i < 3; ++i) {
                           if (!elect_one()) continue;
                           int& lane = chosen[thread_index() / 32];
                           EXPECT_TRUE(i == 0 ? lane == -1 : lane == thread_index());
                           lane = thread_index();
                         }
                       }),
              "");
    for (const int lane : chosen) EXPECT_NE(lane, -1);
  }
}

// ---- The copy engine

// One box to shared memory, read there by the formula of the swizzle, which is written here anew.
std::vector<uint8_t> copied(const TensorFacts& facts, std::vector<int> c) {
  const TensorMap map = map_of(facts);
  const uint32_t bytes = facts.box_bytes(), row = facts.box[0] * uint32_t(facts.element_bytes);
  std::vector<uint8_t> result(bytes);
  const uint32_t barrier = (bytes + 7) / 8 * 8;
  simt::launch({.threads = 32, .shared_bytes = static_cast<int>(barrier) + 8}, [&] {
    if (thread_index() == 0) {
      barrier_init(barrier, 1);
      fence_barrier_init();
      barrier_arrive_expect(barrier, bytes);
      facts.rank == 2 ? copy_tensor_2d(0, map, c[0], c[1], barrier)
                      : copy_tensor_3d(0, map, c[0], c[1], c[2], barrier);
    }
    sync_block();
    barrier_wait(barrier, 0);
    if (thread_index() != 0) return;
    for (uint32_t i = 0; i < bytes; ++i) {
      const uint32_t r = i / row, piece = i % row / 16;
      uint32_t permuted = piece;
      if (facts.swizzle == Swizzle::bytes128) permuted = piece ^ (r % 8);
      if (facts.swizzle == Swizzle::bytes64) permuted = piece ^ (r / 2 % 4);
      if (facts.swizzle == Swizzle::bytes32) permuted = piece ^ (r / 4 % 2);
      result[i] = shared_object<std::array<uint8_t, 1>>(r * row + permuted * 16 + i % 16)[0];
    }
  });
  return result;
}

TEST(SimtHopper, CopiesFillWithZerosBeyondTheTensor) {
  std::mt19937 rng(12);
  for (const Swizzle swizzle :
       {Swizzle::none, Swizzle::bytes32, Swizzle::bytes64, Swizzle::bytes128}) {
    for (const int element : {1, 2, 4}) {
      for (const int rank : {2, 3}) {
        const uint32_t row =
            (swizzle == Swizzle::none ? 48 : static_cast<uint32_t>(swizzle)) / uint32_t(element);
        const uint64_t columns = 70, rows = 21, planes = 3, pitch = 288, plane = pitch * rows;
        const simt::Buffer in("in", random_bytes(plane * planes, rng));
        TensorFacts facts = matrix(in.data<char>(), element, rows, columns, 16, row, swizzle);
        facts.rank = rank;
        facts.size[2] = planes;
        facts.stride[0] = pitch;
        facts.stride[1] = plane;
        facts.box[2] = rank == 3 ? 2 : 1;
        const int extra = 16 / element;
        for (const auto& [c0, c1, c2] :
             {std::array{0, 0, 0}, {2 * extra, 9, 1}, {-extra, -3, -1}, {4 * extra, 19, 2}}) {
          const std::vector<uint8_t> got = copied(facts, {c0, c1, c2});
          for (uint32_t i = 0; i < got.size(); ++i) {
            const int byte = static_cast<int>(i % (row * uint32_t(element)));
            const int line = static_cast<int>(i / (row * uint32_t(element)));
            const int x = c0 + byte / element, y = c1 + line % 16;
            const int z = rank == 3 ? c2 + line / 16 : 0;
            const bool inside =
                x >= 0 && x < int(columns) && y >= 0 && y < int(rows) && z >= 0 && z < int(planes);
            const size_t from = size_t(z) * plane + size_t(y) * pitch +
                                size_t(x) * size_t(element) + size_t(byte % element);
            ASSERT_EQ(got[i], inside ? in.data<uint8_t>()[from] : 0) << i;
          }
        }
      }
    }
  }
}

// The copy engine sees what threads of this launch stored to global memory only after a fence.
TEST(SimtHopper, CopiesOfFreshGlobalMemoryNeedAFence) {
  const auto run = [](bool fence) {
    const simt::Buffer work("work", 2 * 16, Access::read_write);
    const TensorMap map = map_of(matrix(work.data<char>(), 1, 2, 16, 2, 16, Swizzle::none));
    return fault_of({}, [&] {
      const int thread = thread_index();
      if (thread < 8) store_global(work.data<uint32_t>() + thread, 7u);
      if (thread == 0) barrier_init(256, 1);
      if (thread == 0) fence_barrier_init();
      sync_block();
      if (thread == 0) {
        if (fence) fence_proxy_async_global();
        barrier_arrive_expect(256, 32);
        copy_tensor_2d(0, map, 0, 0, 256);
      }
      barrier_wait(256, 0);
    });
  };
  EXPECT_EQ(run(true), "");
  EXPECT_NE(run(false).find("no fence_proxy_async_global"), std::string::npos);
}

TEST(SimtHopper, TensorMapsAreChecked) {
  alignas(16) static const char memory[64] = {};
  const TensorFacts good = matrix(memory, 1, 4, 16, 2, 16, Swizzle::none);
  EXPECT_TRUE(good.check().ok());
  const auto bad = [&](auto&& change) {
    TensorFacts facts = good;
    change(facts);
    return !facts.check().ok();
  };
  EXPECT_TRUE(bad([](TensorFacts& f) { f.rank = 4; }));
  EXPECT_TRUE(bad([](TensorFacts& f) { f.element_bytes = 3; }));
  EXPECT_TRUE(bad([](TensorFacts& f) { f.base = memory + 8; }));
  EXPECT_TRUE(bad([](TensorFacts& f) { f.stride[0] = 24; }));
  EXPECT_TRUE(bad([](TensorFacts& f) { f.size[1] = 0; }));
  EXPECT_TRUE(bad([](TensorFacts& f) { f.box[1] = 257; }));
  EXPECT_TRUE(bad([](TensorFacts& f) { f.box[0] = 8; }));
  EXPECT_TRUE(bad([](TensorFacts& f) { f.swizzle = Swizzle::bytes128; }));
}

}  // namespace
}  // namespace qcore
