#include <gtest/gtest.h>

#include "canonical_cases.h"
#include "thread_pool.h"

namespace qcore {
namespace {

using namespace testing;

template <class Args>
struct Written;

template <>
struct Written<QuantizeInt8Args> {
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<int32_t> zero;
  bool operator==(const Written& other) const {
    return q == other.q && zero == other.zero && scale.size() == other.scale.size() &&
           std::memcmp(scale.data(), other.scale.data(), scale.size() * 4) == 0;
  }
};

Written<QuantizeInt8Args> run(const Row<QuantizeInt8>& row, QuantizeInt8Args args,
                              const Parallel& parallel = {}) {
  const bool whole = args.granularity == Granularity::tensor;
  const auto scales = static_cast<size_t>(whole ? 1 : args.x.m);
  Written<QuantizeInt8Args> w{std::vector<int8_t>(static_cast<size_t>(args.x.m * args.x.k), 0x55),
                              std::vector<float>(scales, -7),
                              std::vector<int32_t>(args.symmetric ? 0 : scales, -777)};
  args.q = w.q.data();
  args.scale = w.scale.data();
  args.zero = args.symmetric ? nullptr : w.zero.data();
  const Status status = row.run(args, parallel);
  EXPECT_TRUE(status.ok()) << status.message();
  return w;
}

template <>
struct Written<QuantizeFp8Args> {
  std::vector<uint8_t> q;
  std::vector<float> scale;
  bool operator==(const Written& other) const {
    return q == other.q && scale.size() == other.scale.size() &&
           std::memcmp(scale.data(), other.scale.data(), scale.size() * 4) == 0;
  }
};

Written<QuantizeFp8Args> run(const Row<QuantizeFp8>& row, QuantizeFp8Args args,
                             const Parallel& parallel = {}) {
  int64_t scales = args.granularity == Granularity::tensor ? 1 : args.x.m;
  if (args.granularity == Granularity::block) scales *= ceil_div(args.x.k, kScaleBlock);
  Written<QuantizeFp8Args> w{std::vector<uint8_t>(static_cast<size_t>(args.x.m * args.x.k), 0x55),
                             std::vector<float>(static_cast<size_t>(scales), -7)};
  args.q = w.q.data();
  args.scale = w.scale.data();
  const Status status = row.run(args, parallel);
  EXPECT_TRUE(status.ok()) << status.message();
  return w;
}

QuantizeInt8Args random_int8(const RowsData& d, Rng& rng, std::vector<float>& scales,
                             std::vector<int32_t>& zeros) {
  QuantizeInt8Args args;
  args.x = d.rows();
  args.symmetric = rng() % 2;
  args.granularity = pick(rng, {Granularity::row, Granularity::tensor});
  if (rng() % 3) return args;
  scales = random_scales(d.shape.m, rng);
  zeros.resize(scales.size());
  for (int32_t& zero : zeros) zero = static_cast<int32_t>(uniform(rng, -128, 127));
  args.given_scale = scales.data();
  if (!args.symmetric) args.given_zero = zeros.data();
  return args;
}

QuantizeFp8Args random_fp8(const RowsData& d, Rng& rng, std::vector<float>& scales) {
  QuantizeFp8Args args;
  args.x = d.rows();
  args.type = pick(rng, {Float8::e4m3, Float8::e5m2});
  args.granularity = pick(rng, {Granularity::row, Granularity::tensor, Granularity::block});
  if (rng() % 3 || args.granularity == Granularity::block) return args;
  scales = random_scales(d.shape.m, rng);
  args.given_scale = scales.data();
  return args;
}

// The reference row is compared with torch by tests/test_quantize_ops.py.
TEST(QuantizeInt8, EveryRowHasTheBitsOfTheReference) {
  ThreadPool two(2);
  Rng rng(81);
  const auto rows = runnable_rows<QuantizeInt8>();
  for (int i = 0; i < 400; ++i) {
    RowsCase c = random_rows_case(rng);
    if (i % 8 == 0) c.m = 50;
    const RowsData d = random_data(c, rng);
    std::vector<float> scales;
    std::vector<int32_t> zeros;
    const QuantizeInt8Args args = random_int8(d, rng, scales, zeros);
    const auto expected = run(*rows.back(), args);
    for (const Row<QuantizeInt8>* row : rows) {
      ASSERT_TRUE(run(*row, args) == expected) << row->name << " " << describe(c);
      ASSERT_TRUE(run(*row, args, two.parallel()) == expected) << row->name << " " << describe(c);
      const FlushSubnormals flush;
      ASSERT_TRUE(run(*row, args) == expected) << row->name << " " << describe(c);
    }
  }
}

TEST(QuantizeFp8, EveryRowHasTheBitsOfTheReference) {
  ThreadPool two(2);
  Rng rng(82);
  const auto rows = runnable_rows<QuantizeFp8>();
  for (int i = 0; i < 400; ++i) {
    RowsCase c = random_rows_case(rng);
    if (i % 8 == 0) c.m = 50;
    const RowsData d = random_data(c, rng);
    std::vector<float> scales;
    const QuantizeFp8Args args = random_fp8(d, rng, scales);
    const auto expected = run(*rows.back(), args);
    for (const Row<QuantizeFp8>* row : rows) {
      ASSERT_TRUE(run(*row, args) == expected) << row->name << " " << describe(c);
      ASSERT_TRUE(run(*row, args, two.parallel()) == expected) << row->name << " " << describe(c);
      const FlushSubnormals flush;
      ASSERT_TRUE(run(*row, args) == expected) << row->name << " " << describe(c);
    }
  }
}

// A given scale of one: values between all neighbours, and at the middles.
TEST(QuantizeFp8, RoundsToTheNearestAndToEvenBetween) {
  for (const Row<QuantizeFp8>* row : runnable_rows<QuantizeFp8>()) {
    for (const Float8 type : {Float8::e4m3, Float8::e5m2}) {
      const int last = type == Float8::e4m3 ? 0x7e : 0x7b;
      std::vector<float> x;
      std::vector<uint8_t> expected;
      for (int code = 0; code < last; ++code) {
        const float low = f32_from_float8(type, static_cast<uint8_t>(code));
        const float high = f32_from_float8(type, static_cast<uint8_t>(code + 1));
        const float middle = low + (high - low) / 2;
        for (const float sign : {1.0f, -1.0f}) {
          const auto add = [&](float value, int to) {
            x.push_back(sign * value);
            expected.push_back(static_cast<uint8_t>(to | (sign < 0 ? 0x80 : 0)));
          };
          add(low, code);
          add(std::nextafter(middle, 0.0f), code);
          add(middle, code % 2 ? code + 1 : code);
          add(std::nextafter(middle, high), code + 1);
        }
      }
      const float one = 1;
      QuantizeFp8Args args;
      args.x = {.m = 1, .k = static_cast<int64_t>(x.size()), .x = x.data()};
      args.type = type;
      args.granularity = Granularity::tensor;
      args.given_scale = &one;
      EXPECT_EQ(run(*row, args).q, expected) << row->name << " " << name(type);
    }
  }
}

TEST(Quantize, BadArgumentsAreNamed) {
  const float x[6] = {};
  int8_t q[6];
  const float scale = 1;
  const int32_t zero = 200;
  const auto named = [&](auto change) {
    QuantizeInt8Args args;
    args.x = {.m = 2, .k = 3, .x = x, .stride = 3};
    args.q = q;
    change(args);
    const Status status = quantize_int8(args, {});
    EXPECT_EQ(status.code(), StatusCode::invalid_argument) << status.message();
    return status.message().substr(0, status.message().find(':'));
  };
  int32_t out;
  EXPECT_EQ(named([](QuantizeInt8Args& a) { a.x.m = -1; }), "x.m");
  EXPECT_EQ(named([](QuantizeInt8Args& a) { a.x.k = 0; }), "x.k");
  EXPECT_EQ(named([](QuantizeInt8Args& a) { a.x.x = nullptr; }), "x.x");
  EXPECT_EQ(named([](QuantizeInt8Args& a) { a.x.stride = -1; }), "x.stride");
  EXPECT_EQ(named([](QuantizeInt8Args& a) { a.x.dtype = DType{8}; }), "x.dtype");
  EXPECT_EQ(named([](QuantizeInt8Args& a) { a.q = nullptr; }), "q");
  EXPECT_EQ(named([](QuantizeInt8Args& a) { a.granularity = Granularity::block; }), "granularity");
  EXPECT_EQ(named([&](QuantizeInt8Args& a) { a.given_zero = &zero; }), "given_zero");
  EXPECT_EQ(named([&](QuantizeInt8Args& a) { a.zero = &out; }), "zero");
  EXPECT_EQ(named([&](QuantizeInt8Args& a) {
              a.symmetric = false, a.given_scale = &scale, a.granularity = Granularity::tensor;
            }),
            "given_zero");
  EXPECT_EQ(named([&](QuantizeInt8Args& a) {
              a.symmetric = false, a.given_scale = &scale, a.granularity = Granularity::tensor;
              a.given_zero = &zero;
            }),
            "given_zero");
  QuantizeFp8Args args;
  args.x = {.m = 2, .k = 3, .x = x, .stride = 3};
  EXPECT_EQ(quantize_fp8(args, {}).message(), "q: expected a pointer, got null");
}

}  // namespace
}  // namespace qcore
