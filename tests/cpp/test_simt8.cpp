// The instructions of ptx/bits8.cuh in the emulator: products of 8-bit elements, conversions to
// FP8, and the meeting of a grid.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "ptx/bits8.cuh"
#include "ptx/fragments.h"
#include "simt/simt.h"

namespace qcore {
namespace {

using namespace ptx;
using simt::Access;
using simt::Order;

// D[16, 8] = C + A[16, 32] B[32, 8], by one warp.
template <class Result, class Multiply>
std::vector<Result> product(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b,
                            const std::vector<Result>& c, const Multiply& multiply) {
  const simt::Buffer a_in("a", a), b_in("b", b), c_in("c", c);
  const simt::Buffer out("d", 16 * 8 * sizeof(Result), Access::write_once);
  simt::launch({}, [&] {
    const int lane = thread_index();
    uint32_t a_bits[4] = {}, b_bits[2] = {};
    for (int i = 0; i < 16; ++i) {
      const fragments::Element e = fragments::a8_element(lane, i);
      const uint32_t byte = load_global(a_in.data<uint8_t>() + e.row * 32 + e.column);
      a_bits[i / 4] |= byte << (i % 4 * 8);
    }
    for (int i = 0; i < 8; ++i) {
      const fragments::Element e = fragments::b8_element(lane, i);
      const uint32_t byte = load_global(b_in.data<uint8_t>() + e.row * 8 + e.column);
      b_bits[i / 4] |= byte << (i % 4 * 8);
    }
    Result d[4];
    for (int i = 0; i < 4; ++i) {
      const fragments::Element e = fragments::c_element(lane, i);
      d[i] = load_global(c_in.data<Result>() + e.row * 8 + e.column);
    }
    multiply(d, a_bits, b_bits);
    for (int i = 0; i < 4; ++i) {
      const fragments::Element e = fragments::c_element(lane, i);
      store_global(out.data<Result>() + e.row * 8 + e.column, d[i]);
    }
  });
  return out.values<Result>();
}

std::vector<uint8_t> random_bytes(size_t count, std::mt19937& rng) {
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(rng());
  return bytes;
}

TEST(Simt8, ProductOfInt8IsExactAndWraps) {
  std::mt19937 rng(11);
  for (int round = 0; round < 20; ++round) {
    const auto a = random_bytes(16 * 32, rng), b = random_bytes(32 * 8, rng);
    std::vector<int32_t> c(16 * 8);
    for (int32_t& value : c) value = static_cast<int32_t>(rng()) >> (round % 2 == 0 ? 0 : 8);
    const auto d =
        product(a, b, c, [](auto& sum, const auto& x, const auto& y) { mma_16x8x32(sum, x, y); });
    for (size_t i = 0; i < d.size(); ++i) {
      int64_t sum = c[i];
      for (size_t k = 0; k < 32; ++k) {
        sum += static_cast<int8_t>(a[i / 8 * 32 + k]) * static_cast<int8_t>(b[k * 8 + i % 8]);
      }
      ASSERT_EQ(d[i], static_cast<int32_t>(sum)) << i;
    }
  }
}

template <class Pair>
class Fp8Products : public ::testing::Test {};
template <class A_, class B_>
struct Pair {
  using A = A_;
  using B = B_;
};
using Pairs =
    ::testing::Types<Pair<E4m3, E4m3>, Pair<E4m3, E5m2>, Pair<E5m2, E4m3>, Pair<E5m2, E5m2>>;
TYPED_TEST_SUITE(Fp8Products, Pairs);

template <class T>
double value_of(uint8_t code) {
  return simt::float8_value(std::is_same_v<T, E5m2> ? simt::kE5m2 : simt::kE4m3, code);
}

TYPED_TEST(Fp8Products, AreRoundedOnce) {
  using A = typename TypeParam::A;
  using B = typename TypeParam::B;
  std::mt19937 rng(12);
  bool nan = false, number = false;
  for (int round = 0; round < 20; ++round) {
    auto a = random_bytes(16 * 32, rng), b = random_bytes(32 * 8, rng);
    // Random bytes are NaN or infinite so often that only some rows and columns may have them.
    const auto tame = [](std::vector<uint8_t>& bytes) {
      for (size_t i = 40; i < bytes.size(); ++i) bytes[i] &= 0xf7 & ~(i % 4 == 0 ? 0x40 : 0x04);
    };
    tame(a), tame(b);
    std::vector<float> c(16 * 8);
    for (float& value : c) value = static_cast<float>(static_cast<int32_t>(rng())) * 0x1p-20f;
    const auto d = product(
        a, b, c, [](auto& sum, const auto& x, const auto& y) { mma_16x8x32<A, B>(sum, x, y); });
    for (size_t i = 0; i < d.size(); ++i) {
      double sum = c[i];
      for (size_t k = 0; k < 32; ++k) {
        sum += value_of<A>(a[i / 8 * 32 + k]) * value_of<B>(b[k * 8 + i % 8]);
      }
      if (std::isnan(sum)) {
        ASSERT_TRUE(std::isnan(d[i])) << i;
        nan = true;
      } else {
        ASSERT_EQ(d[i], static_cast<float>(sum)) << i;
        number = true;
      }
    }
  }
  EXPECT_TRUE(nan && number);
}

// What sm_80 computes, against a search in the table of all values.
template <class T>
void compare_conversion() {
  const simt::Float8Format& f = std::is_same_v<T, E5m2> ? simt::kE5m2 : simt::kE4m3;
  for (uint32_t high = 0; high < 1u << 16; ++high) {
    // Around the midpoints, which have few bits.
    for (const uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const uint32_t bits = high << 16 | low;
      const float value = std::bit_cast<float>(bits);
      const uint32_t got = fp8_bits<T>(bits);
      if (std::isnan(value)) {
        ASSERT_TRUE(std::isnan(simt::float8_value(f, static_cast<int>(got)))) << value;
      } else {
        ASSERT_EQ(got, static_cast<uint32_t>(simt::float8_nearest(f, value))) << value;
      }
    }
  }
}

TEST(Simt8, ConversionsRoundToTheNearest) {
  compare_conversion<E4m3>();
  compare_conversion<E5m2>();
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(pack2_fp8<E4m3>(448, -464), 0xfe7e);
  EXPECT_EQ(pack2_fp8<E4m3>(inf, 1), 0x387e);
  EXPECT_EQ(pack2_fp8<E5m2>(-inf, 57344), 0x7bfb);
  EXPECT_EQ(pack2_fp8<E4m3>(0x1p-10f, 0x1.8p-10f), 0x0100);  // a tie to even, and above it
  EXPECT_EQ(pack2_fp8<E5m2>(-0.0f, 0x1p-16f), 0x0180);
}

TEST(Simt8, FloatsOfOcpAreWhatTheyShouldBe) {
  EXPECT_EQ(value_of<E4m3>(0x7e), 448);
  EXPECT_EQ(value_of<E4m3>(0x01), 0x1p-9);
  EXPECT_EQ(value_of<E4m3>(0xb8), -1);
  EXPECT_TRUE(std::isnan(value_of<E4m3>(0xff)));
  EXPECT_EQ(value_of<E5m2>(0x7b), 57344);
  EXPECT_EQ(value_of<E5m2>(0x01), 0x1p-16);
  EXPECT_EQ(value_of<E5m2>(0xfc), -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(value_of<E5m2>(0x7d)));
}

TEST(Simt8, ArithmeticIsThatOfIeee) {
  EXPECT_EQ(ptx::fma(0x1.000002p0f, 0x1.000002p0f, -1.0f), 0x1.000001p-22f);
  EXPECT_EQ(divide(1, 3), 1.0f / 3);
  EXPECT_EQ(square_root(2), std::sqrt(2.0f));
  EXPECT_EQ(to_float((int64_t{1} << 30) + 1), 0x1p30f);
  EXPECT_EQ(maximum(NAN, 1), 1);
  EXPECT_EQ(minimum(1, NAN), 1);
}

// ---- The meeting of a grid

// Every block writes, and after the meeting reads what the next one wrote.
void exchange(simt::Launch launch, bool meet, bool last_block_leaves = false) {
  constexpr int kGrid = 3;
  const simt::Buffer work("work", kGrid * 64 * 4, Access::read_write);
  launch.grid = kGrid;
  launch.threads = 64;
  simt::launch(launch, [&] {
    uint32_t* const words = work.data<uint32_t>();
    const int me = block_index() * 64 + thread_index();
    for (uint32_t round = 0; round < 3; ++round) {
      store_global(words + me, round + 7);
      if (last_block_leaves && block_index() == kGrid - 1) return;
      if (meet) sync_grid();
      EXPECT_EQ(load_global(words + (me + 64) % (kGrid * 64)), round + 7);
      if (meet) sync_grid();
    }
  });
}

TEST(Simt8, AGridMeets) {
  for (const Order order : {Order::ascending, Order::descending, Order::shuffled}) {
    for (uint32_t seed = 0; seed < 3; ++seed) {
      EXPECT_NO_THROW(exchange({.order = order, .seed = seed, .resident_blocks = 3}, true));
    }
    EXPECT_THROW(exchange({.order = order, .resident_blocks = 3}, false), simt::Fault);
  }
}

void expect_fault(const simt::Launch& launch, bool leaves, const char* says) {
  try {
    exchange(launch, true, leaves);
    ADD_FAILURE() << "no fault";
  } catch (const simt::Fault& fault) {
    EXPECT_NE(std::string(fault.what()).find(says), std::string::npos) << fault.what();
  }
}

TEST(Simt8, AGridThatCannotMeetIsAFault) {
  expect_fault({.resident_blocks = 2}, false, "sync_grid: 3 blocks, of which only 2 are resident");
  expect_fault({.resident_blocks = 3}, true, "livelock, nobody makes progress");
}

}  // namespace
}  // namespace qcore
