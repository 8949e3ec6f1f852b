// The emulator in tests/simt. Everything that it must find is planted here once, beside a sibling
// without the fault that must run clean.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "numerics/float16.h"
#include "ptx/base.cuh"
#include "ptx/fragments.h"
#include "simt/planted.h"
#include "simt/simt.h"

namespace qcore {
namespace {

using namespace ptx;
using planted::kThreads;
using planted::Planted;
using simt::Access;
using simt::Order;

const std::vector<simt::Launch>& schedules() {
  static const std::vector<simt::Launch> all = {{.order = Order::ascending},
                                                {.order = Order::descending},
                                                {.order = Order::ascending, .resident_blocks = 1},
                                                {.order = Order::descending, .resident_blocks = 1},
                                                {.order = Order::shuffled, .seed = 1},
                                                {.order = Order::shuffled, .seed = 2},
                                                {.order = Order::shuffled, .seed = 3}};
  return all;
}

class Faults : public ::testing::TestWithParam<Planted> {
 protected:
  static void run(simt::Launch launch, bool wrong) {
    const Planted& planted = GetParam();
    const simt::Buffer in("in", std::vector<uint32_t>(kThreads + 2, 1));
    const simt::Buffer out("out", 4 * kThreads, Access::write_once);
    const simt::Buffer work("work", 4 * kThreads, Access::read_write);
    launch.name = planted.name;
    launch.threads = kThreads;
    launch.shared_bytes = 2048;
    simt::launch(launch, [&] {
      planted.kernel({in.data<uint32_t>(), out.data<uint32_t>(), work.data<uint32_t>(), wrong});
    });
  }
};

TEST_P(Faults, IsFoundInEveryOrder) {
  for (const simt::Launch& schedule : schedules()) {
    EXPECT_THROW(run(schedule, true), simt::Fault);
  }
  try {
    run({}, true);
  } catch (const simt::Fault& fault) {
    EXPECT_NE(std::string(fault.what()).find(GetParam().says), std::string::npos) << fault.what();
  }
}

TEST_P(Faults, SiblingRunsClean) {
  for (const simt::Launch& schedule : schedules()) EXPECT_NO_THROW(run(schedule, false));
}

INSTANTIATE_TEST_SUITE_P(Planted, Faults, ::testing::ValuesIn(planted::kPlanted),
                         [](const auto& planted) { return std::string(planted.param.name); });

// ---- Blocks and their order

// Block 1 reads what block 0 writes: right by luck where block 0 comes first.
TEST(Simt, BlocksThatDependOnTheirOrderAreFound) {
  const auto run = [](simt::Launch launch) {
    const simt::Buffer work("work", 2 * 4, Access::read_write);
    launch.grid = 2;
    launch.resident_blocks = 1;
    simt::launch(launch, [&] {
      uint32_t* const number = work.data<uint32_t>();
      if (thread_index() != 0) return;
      if (block_index() == 0) store_global(number, 1u);
      if (block_index() == 1) load_global(number);
    });
  };
  EXPECT_NO_THROW(run({.order = Order::ascending}));
  EXPECT_THROW(run({.order = Order::descending}), simt::Fault);
  int found = 0;
  for (uint32_t seed = 0; seed < 8; ++seed) {
    try {
      run({.order = Order::shuffled, .seed = seed});
    } catch (const simt::Fault&) {
      ++found;
    }
  }
  EXPECT_GT(found, 0);
  EXPECT_LT(found, 8);
}

// Which block and phase thread 0 of each block is in, in the order of the emulated machine.
std::vector<std::pair<int, int>> trace(simt::Launch launch) {
  std::vector<std::pair<int, int>> steps;
  launch.grid = 3;
  launch.threads = 64;
  simt::launch(launch, [&] {
    for (int phase = 0; phase < 3; ++phase) {
      if (thread_index() == 0) steps.emplace_back(block_index(), phase);
      sync_block();
    }
  });
  return steps;
}

TEST(Simt, ResidentBlocksInterleaveAtBarriers) {
  using Steps = std::vector<std::pair<int, int>>;
  const Steps one_by_one = {{0, 0}, {0, 1}, {0, 2}, {1, 0}, {1, 1}, {1, 2}, {2, 0}, {2, 1}, {2, 2}};
  EXPECT_EQ(trace({.resident_blocks = 1}), one_by_one);
  Steps steps = trace({.resident_blocks = 3});
  EXPECT_LT(std::find(steps.begin(), steps.end(), std::pair(2, 0)),
            std::find(steps.begin(), steps.end(), std::pair(0, 2)));
  EXPECT_EQ(steps.size(), 9u);
  steps = trace({.order = Order::descending, .resident_blocks = 2});
  EXPECT_EQ(steps.front(), std::pair(2, 0));
  EXPECT_NE(trace({.order = Order::shuffled, .seed = 1}),
            trace({.order = Order::shuffled, .seed = 2}));
  EXPECT_EQ(trace({.order = Order::shuffled, .seed = 1}),
            trace({.order = Order::shuffled, .seed = 1}));
}

TEST(Simt, ShuffledWarpsInterleaveAtCollectives) {
  const auto changes = [](simt::Launch launch) {
    std::vector<int> warps;
    launch.threads = 64;
    simt::launch(launch, [&] {
      for (int i = 0; i < 64; ++i) {
        if (thread_index() % 32 == 0) warps.push_back(thread_index() / 32);
        sync_warp();
      }
    });
    int count = 0;
    for (size_t i = 1; i < warps.size(); ++i) count += warps[i] != warps[i - 1];
    return count;
  };
  EXPECT_EQ(changes({.order = Order::ascending}), 1);
  EXPECT_GT(changes({.order = Order::shuffled}), 4);
}

// Each block waits for the other one.
TEST(Simt, SpinningThreadsLetOthersRun) {
  for (const simt::Launch& schedule : schedules()) {
    if (schedule.resident_blocks < 2) continue;
    simt::Buffer flags("flags", 2 * 4, Access::read_write);
    flags.fill(0);
    simt::Launch launch = schedule;
    launch.grid = 2;
    simt::launch(launch, [&] {
      uint32_t* const flag = flags.data<uint32_t>();
      if (thread_index() == 7) store_global(flag + block_index(), 1u);
      while (load_global(flag + 1 - block_index()) == 0) simt::pause();
      sync_block();
    });
    EXPECT_EQ(flags.values<uint32_t>(), (std::vector<uint32_t>{1, 1}));
  }
}

TEST(Simt, GlobalMemoryOutsideOfPtxIsGuarded) {
  const simt::Buffer out("out", 12, Access::write_once);
  EXPECT_THROW(simt::launch({}, [&] { out.data<uint32_t>()[3] = 1; }), simt::Fault);
}

TEST(Simt, ViewsOpenMemoryOfTheHost) {
  std::vector<float> numbers(32, 1.f);
  const auto twice = [&] {
    float* const mine = numbers.data() + thread_index();
    store_global(mine, 2 * load_global(mine));
  };
  EXPECT_THROW(simt::launch({}, twice), simt::Fault);
  {
    const simt::View view("numbers", numbers.data(), 32 * 4, Access::read_write);
    simt::launch({}, twice);
    EXPECT_THROW(simt::View("inside", &numbers[3], 4), std::invalid_argument);
  }
  EXPECT_THROW(simt::launch({}, twice), simt::Fault);
  EXPECT_EQ(numbers, std::vector<float>(32, 2.f));
}

TEST(Simt, BadLaunchesAreRefused) {
  EXPECT_THROW(simt::launch({.threads = 48}, [] {}), std::invalid_argument);
  EXPECT_THROW(simt::launch({.grid = 0}, [] {}), std::invalid_argument);
  EXPECT_THROW(simt::launch({.threads = 2048}, [] {}), std::invalid_argument);
}

// ---- Arithmetic

template <class T>
struct Format;
template <>
struct Format<Half> {
  static constexpr int kBits = 11, kMinExponent = -14;
  static float from(uint16_t bits) { return f32_from_f16(bits); }
  static uint16_t to(float value) { return f16_from_f32(value); }
  // A number such that a * b + c in long double is exact or too far from a midpoint to matter.
  static uint16_t any(uint32_t random) { return static_cast<uint16_t>(random); }
};
template <>
struct Format<Bfloat> {
  static constexpr int kBits = 8, kMinExponent = -126;
  static float from(uint16_t bits) { return f32_from_bf16(bits); }
  static uint16_t to(float value) { return bf16_from_f32(value); }
  static uint16_t any(uint32_t random) {  // 2^-8 .. 2^8
    return static_cast<uint16_t>((random & 0x807fu) | (119 + (random >> 16) % 16) << 7);
  }
};

template <class T>
class Arithmetic : public ::testing::Test {
 protected:
  // 16-bit numbers in [-2, 2).
  std::vector<uint16_t> random(size_t count) {
    std::uniform_real_distribution<float> distribution(-2, 2);
    std::vector<uint16_t> values(count);
    for (uint16_t& v : values) v = Format<T>::to(distribution(rng_));
    return values;
  }
  std::mt19937 rng_{7};
};
using Formats = ::testing::Types<Half, Bfloat>;
TYPED_TEST_SUITE(Arithmetic, Formats);

// Each warp of each block: D[16, 8] = A[16, K] B[K, 8], with A on its way through shared memory.
constexpr uint32_t kK = 64, kStages = 3;

template <class T>
void product(const uint16_t* a, const uint16_t* b, float* d) {
  const auto lane = static_cast<uint32_t>(thread_index()) % 32;
  const auto warp = static_cast<uint32_t>(thread_index()) / 32;
  const uint32_t tile = static_cast<uint32_t>(block_index()) * 2 + warp;
  const SharedAddress mine = warp * kStages * 512;
  const auto stage = [&](uint32_t step) { return mine + step % kStages * 512 + lane * 16; };
  const auto copy = [&](uint32_t step) {
    const uint32_t row = tile * 16 + lane % 16, column = step * 16 + lane / 16 * 8;
    if (step < kK / 16) copy_async_16(stage(step), a + row * kK + column, 16);
    copy_async_commit();
  };
  for (uint32_t step = 0; step < kStages - 1; ++step) copy(step);
  float sum[4] = {};
  for (uint32_t step = 0; step < kK / 16; ++step) {
    copy_async_wait<kStages - 2>();
    sync_block();
    copy(step + kStages - 1);
    uint32_t fragment[4], other[2];
    ldmatrix_x4(fragment, stage(step));
    for (int i = 0; i < 2; ++i) {
      uint32_t half[2];
      for (int j = 0; j < 2; ++j) {
        const fragments::Element e = fragments::b_element(static_cast<int>(lane), 2 * i + j);
        half[j] = load_global(b + (step * 16 + static_cast<uint32_t>(e.row)) * 8 + e.column);
      }
      other[i] = half[0] | half[1] << 16;
    }
    mma_16x8x16<T>(sum, fragment, other);
  }
  for (int i = 0; i < 4; ++i) {
    const fragments::Element e = fragments::c_element(static_cast<int>(lane), i);
    store_global(d + (tile * 16 + static_cast<uint32_t>(e.row)) * 8 + e.column, sum[i]);
  }
}

TYPED_TEST(Arithmetic, ProductIsTheMatrixProductInEveryOrder) {
  constexpr uint32_t kGrid = 5, kM = kGrid * 2 * 16;
  const auto a = this->random(kM * kK), b = this->random(kK * 8);
  std::vector<float> expected(kM * 8);
  for (uint32_t m = 0; m < kM; ++m) {
    for (uint32_t n = 0; n < 8; ++n) {
      float& sum = expected[m * 8 + n];
      for (uint32_t first = 0; first < kK; first += 16) {
        long double exact = sum;
        for (uint32_t k = first; k < first + 16; ++k) {
          exact += static_cast<long double>(Format<TypeParam>::from(a[m * kK + k])) *
                   Format<TypeParam>::from(b[k * 8 + n]);
        }
        sum = static_cast<float>(exact);
      }
    }
  }
  const simt::Buffer in("a", a), weight("b", b);
  for (const simt::Launch& schedule : schedules()) {
    const simt::Buffer out("d", kM * 8 * 4, Access::write_once);
    simt::Launch launch = schedule;
    launch.grid = kGrid;
    launch.threads = 64;
    launch.shared_bytes = 2 * kStages * 512;
    simt::launch(launch, [&] {
      product<TypeParam>(in.data<uint16_t>(), weight.data<uint16_t>(), out.data<float>());
    });
    EXPECT_EQ(out.template values<float>(), expected);
  }
}

TYPED_TEST(Arithmetic, MmaKeepsInfinityAndNan) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const uint32_t inf = Format<TypeParam>::to(kInf);
  simt::launch({}, [&] {
    const int lane = thread_index();
    // A[0, 0] is infinite, as is C[8, 1]; B[0, n] is n - 1.
    const uint32_t a[4] = {lane == 0 ? inf : 0, 0, 0, 0};
    const uint32_t b[2] = {
        lane % 4 == 0 ? Format<TypeParam>::to(static_cast<float>(lane / 4 - 1)) : 0u, 0};
    float d[4] = {1, 1, 1, lane == 0 ? -kInf : 1};
    mma_16x8x16<TypeParam>(d, a, b);
    if (lane == 0) {
      EXPECT_EQ(d[0], -kInf);
      EXPECT_TRUE(std::isnan(d[1]));
      EXPECT_EQ(d[2], 1);
      EXPECT_EQ(d[3], -kInf);
    } else if (lane < 4) {
      EXPECT_EQ(d[0], kInf);
      EXPECT_EQ(d[1], kInf);
    } else {
      EXPECT_EQ(d[0], 1);
    }
  });
}

// Rounds once: scaled so that the last bit of the format is the unit, to the nearest even integer.
template <class T>
uint16_t rounded(long double value) {
  if (value == 0 || !std::isfinite(value)) return Format<T>::to(static_cast<float>(value));
  const int unit = std::max(std::ilogb(value), Format<T>::kMinExponent) - (Format<T>::kBits - 1);
  return Format<T>::to(
      static_cast<float>(std::ldexp(std::nearbyint(std::ldexp(value, -unit)), unit)));
}

TYPED_TEST(Arithmetic, FmaRoundsOnce) {
  const auto number = [](uint16_t bits) {
    return static_cast<long double>(Format<TypeParam>::from(bits));
  };
  for (int i = 0; i < 200000; ++i) {
    uint16_t n[3];
    for (uint16_t& v : n) v = Format<TypeParam>::any(static_cast<uint32_t>(this->rng_()));
    const long double exact = number(n[0]) * number(n[1]) + number(n[2]);
    const uint32_t both = fma2<TypeParam>(n[0] | 0x40000000u, n[1] | 0x40000000u, n[2]);
    const uint16_t got = static_cast<uint16_t>(both);
    if (std::isnan(exact)) {
      EXPECT_TRUE(std::isnan(number(got)));
    } else {
      ASSERT_EQ(got, rounded<TypeParam>(exact)) << n[0] << " " << n[1] << " " << n[2];
    }
    ASSERT_EQ(both >> 16, Format<TypeParam>::to(4));
  }
}

TEST(Simt, FmaOfBfloatRoundsOnceOverAllExponents) {
  const auto fma = [](float a, float b, float c) {
    const uint32_t d = fma2<Bfloat>(bf16_from_f32(a), bf16_from_f32(b), bf16_from_f32(c));
    return f32_from_bf16(static_cast<uint16_t>(d));
  };
  // 289 / 256 and 323 / 256 are midpoints; to even is down, and up. No double holds them and
  // 2^-100.
  EXPECT_EQ(fma(1.0625f, 1.0625f, 0), 288.f / 256);
  EXPECT_EQ(fma(1.0625f, 1.0625f, 0x1p-100f), 290.f / 256);
  EXPECT_EQ(fma(1.0625f, 1.0625f, -0x1p-100f), 288.f / 256);
  EXPECT_EQ(fma(1.0625f, -1.0625f, -0x1p-100f), -290.f / 256);
  EXPECT_EQ(fma(1.0625f, 1.1875f, 0), 324.f / 256);
  EXPECT_EQ(fma(1.0625f, 1.1875f, 0x1p-100f), 324.f / 256);
  EXPECT_EQ(fma(1.0625f, 1.1875f, -0x1p-100f), 322.f / 256);
  // The largest number is 255 * 2^120; the smallest 2^-133.
  EXPECT_EQ(fma(0x1p127f, 1, 0x1.fcp126f), 0x1.fep127f);
  EXPECT_EQ(fma(0x1p127f, 2, 0), std::numeric_limits<float>::infinity());
  EXPECT_EQ(fma(0x1p127f, 2, -0x1p127f), 0x1p127f);
  EXPECT_EQ(fma(-0x1p127f, 0x1p127f, 0), -std::numeric_limits<float>::infinity());
  EXPECT_EQ(fma(0x1p-133f, 0.5f, 0), 0);
  EXPECT_EQ(fma(0x1p-133f, 0.5f, 0x1p-133f), 0x1p-132f);
  EXPECT_EQ(fma(0x1p-133f, 0.75f, 0), 0x1p-133f);
  EXPECT_EQ(fma(0x1p-133f, 0x1p-133f, 0x1p-133f), 0x1p-133f);
  EXPECT_TRUE(std::signbit(fma(-0x1p-133f, 0x1p-133f, 0)));
}

TEST(Simt, BitsAreMovedAsTheNamesSay) {
  EXPECT_EQ((and_or<0x000f000f, 0x64006400>(0x12345678)), 0x64046408u);
  EXPECT_EQ((permute_bytes<0x7520>(0x33221100, 0x77665544)), 0x77552200u);
  EXPECT_EQ(permute_bytes(0x33221100, 0x77665544, 0x1467), 0x11446677u);
  EXPECT_EQ(multiply(1.5f, 3), 4.5f);
  EXPECT_EQ(add2_half(0x3c004400, 0x3c00c400), 0x40000000u);
  EXPECT_EQ(pack2<Half>(1, -2), 0xc0003c00u);
  EXPECT_EQ(pack2<Bfloat>(1, -2), 0xc0003f80u);
  EXPECT_EQ(to_float<Half>(0x3c00), 1);
  EXPECT_EQ(to_float<Bfloat>(0xc000), -2);
  EXPECT_EQ(float_from_bits(0x3f800000), 1);
}

TEST(Simt, ShuffleExchangesLanes) {
  simt::launch({.threads = 64}, [] {
    for (const int mask : {0, 1, 2, 4, 8, 16, 31}) {
      const float other = shuffle_xor(static_cast<float>(thread_index()), mask);
      EXPECT_EQ(other, static_cast<float>(thread_index() ^ mask));
    }
  });
}

}  // namespace
}  // namespace qcore
