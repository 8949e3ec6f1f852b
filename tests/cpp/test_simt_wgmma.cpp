// The numbers of the emulated products of a warpgroup, with every type, layout and place of A.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>

#include "hopper_cases.h"
#include "numerics/float16.h"
#include "ptx/fragments.h"
#include "ptx/hopper.cuh"
#include "simt/simt.h"

namespace qcore {
namespace {

using namespace ptx;
using simt::Access;
using testing::map_of;
using testing::matrix;

template <class T>
struct Element;
template <>
struct Element<Int8> {
  static double value(const uint8_t* at) { return static_cast<int8_t>(*at); }
};
template <>
struct Element<Half> {
  static double value(const uint8_t* at) { return f32_from_f16(uint16_t(at[0] | at[1] << 8)); }
};
template <>
struct Element<Bfloat> {
  static double value(const uint8_t* at) { return f32_from_bf16(uint16_t(at[0] | at[1] << 8)); }
};
template <int kExponentBits>
double fp8(uint8_t bits) {
  const int fraction_bits = 7 - kExponentBits, bias = (1 << (kExponentBits - 1)) - 1;
  const int exponent = (bits & 0x7f) >> fraction_bits, one = 1 << fraction_bits;
  const int fraction = bits & (one - 1);
  const double size = exponent == 0 ? std::ldexp(fraction, 1 - bias - fraction_bits)
                                    : std::ldexp(one + fraction, exponent - bias - fraction_bits);
  return bits & 0x80 ? -size : size;
}
template <>
struct Element<E4m3> {
  static double value(const uint8_t* at) { return fp8<4>(*at); }
};
template <>
struct Element<E5m2> {
  static double value(const uint8_t* at) { return fp8<5>(*at); }
};

// Random bytes that are finite and not large numbers of that type.
template <class T>
std::vector<uint8_t> random_elements(size_t bytes, std::mt19937& rng) {
  std::vector<uint8_t> values(bytes);
  for (size_t i = 0; i < bytes; ++i) {
    const auto bits = static_cast<uint8_t>(rng());
    values[i] = bits;
    if (std::is_same_v<T, E4m3>) values[i] = bits & 0xbf;  // below 2
    if (std::is_same_v<T, E5m2>) values[i] = bits & 0xbf;
    if (std::is_same_v<T, Half> && i % 2) values[i] = bits & 0xbb;
    if (std::is_same_v<T, Bfloat> && i % 2) values[i] = (bits & 0x80) | 0x3f;
  }
  return values;
}

// D [64, kN] twice over 32 bytes of K: copied by the engine, multiplied with and without registers.
template <class A, class B, int kN>
void check_product(Swizzle swizzle, bool registers, std::mt19937& rng) {
  constexpr uint32_t kRow = 64, kA = 64 * kRow, kB = kN * kRow, kBarrier = 49152;
  const std::vector<uint8_t> a = random_elements<A>(kA, rng), b = random_elements<B>(kB, rng);
  const simt::Buffer in_a("a", a), in_b("b", b);
  const simt::Buffer out("d", 64 * kN * 4, Access::write_once);
  // Rows of the box are as long as the swizzle; 128 bytes hold zeros behind the 64.
  const uint32_t row = swizzle == Swizzle::none ? 16 : static_cast<uint32_t>(swizzle);
  const TensorMap map_a = map_of(matrix(in_a.data<char>(), 1, 64, kRow, 64, row, swizzle));
  const TensorMap map_b = map_of(matrix(in_b.data<char>(), 1, kN, kRow, kN, row, swizzle));
  const uint32_t parts = row >= kRow ? 1 : kRow / row;
  const uint32_t a_part = 64 * row, b_part = kN * row, b_at = 16384;
  simt::launch({.threads = 128, .shared_bytes = kBarrier + 8}, [&] {
    if (thread_index() == 0) {
      barrier_init(kBarrier, 1);
      fence_barrier_init();
      barrier_arrive_expect(kBarrier, parts * (a_part + b_part));
      for (uint32_t p = 0; p < parts; ++p) {
        const int c = static_cast<int>(p * row);
        copy_tensor_2d(p * a_part, map_a, c, 0, kBarrier);
        copy_tensor_2d(b_at + p * b_part, map_b, c, 0, kBarrier);
      }
    }
    sync_block();
    barrier_wait(kBarrier, 0);
    typename Accumulator<A>::Type d[kN / 2] = {};
    uint32_t fragment[2][4];
    for (uint32_t step = 0; step < 2; ++step) {
      unsigned char bytes[16];
      for (int i = 0; i < 16; ++i) {
        const fragments::Element e = fragments::wgmma_a_byte(thread_index(), i);
        bytes[i] = a[static_cast<size_t>(e.row) * kRow + step * 32 + static_cast<size_t>(e.column)];
      }
      std::memcpy(fragment[step], bytes, 16);
    }
    wgmma_fence();
    for (uint32_t step = 0; step < 2; ++step) {
      const auto of = [&](uint32_t at, uint32_t part) {
        if (swizzle == Swizzle::none) {
          return descriptor_plain(at + step * 2 * part, part, 128);
        }
        const uint32_t bytes = step * 32;
        return descriptor(swizzle, at + bytes / row * part + bytes % row, 8 * row);
      };
      if (registers) {
        wgmma<A, B, kN>(d, fragment[step], of(b_at, b_part), step > 0);
      } else {
        wgmma<A, B, kN>(d, of(0, a_part), of(b_at, b_part), step > 0);
      }
    }
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_own(d);
    for (int i = 0; i < kN / 2; ++i) {
      const fragments::Element e = fragments::wgmma_d_element(thread_index(), i);
      store_global(out.data<float>() + e.row * kN + e.column, static_cast<float>(d[i]));
    }
  });
  constexpr bool kWide = std::is_same_v<A, Half> || std::is_same_v<A, Bfloat>;
  const std::vector<float> got = out.values<float>();
  for (size_t m = 0; m < 64; ++m) {
    for (size_t n = 0; n < kN; ++n) {
      double sum = 0, size = 0;
      for (size_t k = 0; k < kRow; k += kWide ? 2 : 1) {
        const double term =
            Element<A>::value(&a[m * kRow + k]) * Element<B>::value(&b[n * kRow + k]);
        sum += term;
        size = std::max({size, std::fabs(term), std::fabs(sum)});
      }
      // FP8: 66 terms are cut to 13 bits below the power of two in the largest.
      const bool exact = std::is_same_v<A, Int8>;
      const double tolerance = exact ? 0 : kWide ? size * 0x1p-20 : size * 66 * 0x1p-13;
      ASSERT_NEAR(got[m * kN + n], sum, tolerance) << m << " " << n;
    }
  }
}

template <class Pair>
class Products : public ::testing::Test {};
using Pairs = ::testing::Types<std::pair<Int8, Int8>, std::pair<E4m3, E4m3>, std::pair<E4m3, E5m2>,
                               std::pair<E5m2, E4m3>, std::pair<E5m2, E5m2>, std::pair<Half, Half>,
                               std::pair<Bfloat, Bfloat>>;
TYPED_TEST_SUITE(Products, Pairs);

TYPED_TEST(Products, AreRightForEverySwizzleAndSize) {
  using A = typename TypeParam::first_type;
  using B = typename TypeParam::second_type;
  std::mt19937 rng(13);
  for (const Swizzle swizzle :
       {Swizzle::none, Swizzle::bytes32, Swizzle::bytes64, Swizzle::bytes128}) {
    for (const bool registers : {false, true}) {
      check_product<A, B, 8>(swizzle, registers, rng);
      check_product<A, B, 64>(swizzle, registers, rng);
      check_product<A, B, 256>(swizzle, registers, rng);
    }
  }
}

// A is in registers that take turns, as in a kernel that decodes it: so many products are under way
// when one is written over.
void multiply_from_registers(int pending, int changed) {
  simt::launch({.threads = 128, .shared_bytes = 2048}, [&] {
    const int thread = thread_index();
    for (int i = thread; i < 512; i += 128) store_shared(static_cast<uint32_t>(i * 4), 1.f);
    fence_proxy_async();
    sync_block();
    float d[4] = {};
    uint32_t a[2][4];
    for (int step = 0; step < 4; ++step) {
      for (uint32_t& word : a[step % 2]) word = 0x3c003c00u + static_cast<uint32_t>(step);
      wgmma_fence();
      wgmma<Half, Half, 8>(d, a[step % 2], descriptor_plain(0, 128, 256), step > 0);
      wgmma_commit();
      if (step == changed && thread == 77) a[step % 2][3] ^= 1;
      if (pending == 0) {
        wgmma_wait<0>();
      } else if (pending == 1) {
        wgmma_wait<1>();
      }
    }
    wgmma_wait<0>();
    wgmma_own(d);
  });
}

TEST(Wgmma, RegistersOfAStayAsTheyAreUntilTheProductWasWaitedFor) {
  const auto says = [](int pending, int changed) -> std::string {
    try {
      multiply_from_registers(pending, changed);
    } catch (const simt::Fault& fault) {
      return fault.what();
    }
    return "";
  };
  EXPECT_EQ(says(0, -1), "");
  EXPECT_EQ(says(1, -1), "");
  const std::string fault = "registers of A were changed while under way";
  EXPECT_NE(says(2, -1).find(fault), std::string::npos);  // written over too early
  EXPECT_NE(says(1, 2).find(fault), std::string::npos);
  EXPECT_NE(says(1, 3).find(fault), std::string::npos);
}

// The matrix unit keeps about 14 bits of a sum of FP8 products: ones are lost beside 2^14. A kernel
// that brings sums to fp32 after every 128 of K keeps them.
TEST(Wgmma, LongFp8SumsLoseTermsUnlessTheyAreBroughtToFp32) {
  static unsigned char ones[256][32];
  std::memset(ones, 0x38, sizeof ones);
  const auto& a = reinterpret_cast<const unsigned char (&)[64][32]>(ones);
  const simt::WgmmaCall call{
      simt::ElementKind::e4m3, simt::ElementKind::e4m3, 8, nullptr, nullptr, 0, 0, true};
  constexpr int kSteps = 1024;  // of 32 products
  std::vector<uint32_t> all(64 * 8, 0), part(64 * 8, 0);
  float sum = 0;
  for (int step = 0; step < kSteps; ++step) {
    simt::wgmma_multiply(call, a, ones, all.data());
    simt::wgmma_multiply(call, a, ones, part.data());
    if (step % 4 != 3) continue;
    sum += std::bit_cast<float>(part[17]);
    part.assign(part.size(), 0);
  }
  EXPECT_EQ(sum, 32 * kSteps);
  EXPECT_EQ(std::bit_cast<float>(all[17]), 1 << 14);
}

TEST(Wgmma, Fp8SumsKeepNanAndInfinity) {
  static unsigned char a[64][32], b[256][32];
  std::memset(a, 0x3c, sizeof a);  // e5m2: 1
  std::memset(b, 0x3c, sizeof b);
  a[1][3] = 0x7c;  // infinity
  a[2][0] = 0x7e;  // NaN
  b[5][31] = 0xff;
  const simt::WgmmaCall call{
      simt::ElementKind::e5m2, simt::ElementKind::e5m2, 8, nullptr, nullptr, 0, 0, true};
  std::vector<uint32_t> sums(64 * 8, 0);
  simt::wgmma_multiply(call, a, b, sums.data());
  for (size_t i = 0; i < sums.size(); ++i) {
    const float value = std::bit_cast<float>(sums[i]);
    if (i / 8 == 2 || i % 8 == 5) {
      EXPECT_TRUE(std::isnan(value)) << i;
    } else {
      EXPECT_EQ(value, i / 8 == 1 ? INFINITY : 32) << i;
    }
  }
}

}  // namespace
}  // namespace qcore
