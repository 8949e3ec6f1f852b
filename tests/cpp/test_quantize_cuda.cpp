// The kernels of cuda/quantize, run by the emulator, against the CPU's op: the same bits.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "emulator.h"
#include "quantize/run.h"

namespace qcore {
namespace {

using namespace testing;
using simt::Access;

struct Rows {
  int64_t m = 1, k = 1, gap = 0, misaligned = 0;  // elements
  DType dtype = DType::f32, norm_dtype = DType::f32;
  bool norm = false;
  Granularity granularity = Granularity::row;
  bool given = false;
};

std::string describe(const Rows& r) {
  return "m=" + std::to_string(r.m) + " k=" + std::to_string(r.k) + " " + name(r.dtype) +
         (r.norm ? " norm" : "") + (r.given ? " given" : "") + " scales=" + name(r.granularity) +
         " gap=" + std::to_string(r.gap) + " misaligned=" + std::to_string(r.misaligned);
}

Rows random_rows(Rng& rng, bool blocks) {
  Rows r;
  r.m = pick<int64_t>(rng, {1, 2, 5, uniform(rng, 1, 12)});
  r.k = pick<int64_t>(rng, {1, 7, 8, 127, 128, 129, 256, 1000, 2048, 2056, uniform(rng, 1, 4000)});
  if (uniform(rng, 0, 11) == 0) r.k = uniform(rng, 8000, 12000);  // more than is held
  r.gap = pick<int64_t>(rng, {0, 0, 8, 3});
  r.misaligned = pick<int64_t>(rng, {0, 0, 0, 1});
  r.dtype = pick(rng, {DType::f32, DType::f16, DType::bf16});
  r.norm_dtype = pick(rng, {DType::f32, r.dtype});
  r.norm = pick(rng, {false, false, true});
  r.granularity = blocks ? pick(rng, {Granularity::tensor, Granularity::row, Granularity::block})
                         : pick(rng, {Granularity::tensor, Granularity::row});
  r.given = r.granularity != Granularity::block && pick(rng, {false, false, true});
  return r;
}

// x and all that quantizing it reads, in the memory of the host; NaN in the gaps.
struct Data {
  Rows shape;
  Buffer x, norm_weight;
  std::vector<float> scale;
  std::vector<int32_t> zero;

  FloatRows rows() const {
    return {.m = shape.m,
            .k = shape.k,
            .dtype = shape.dtype,
            .x = static_cast<const char*>(x.data()) + shape.misaligned * size_of(shape.dtype),
            .stride = shape.k + shape.gap,
            .norm_weight = shape.norm ? norm_weight.data() : nullptr,
            .norm_dtype = shape.norm_dtype};
  }
  void set(int64_t m, int64_t k, float value) {
    x.set(shape.misaligned + m * (shape.k + shape.gap) + k, value);
  }
};

Data random_data(const Rows& r, Rng& rng) {
  Data d{r, Buffer(r.dtype, r.misaligned + r.m * (r.k + r.gap)), Buffer(r.norm_dtype, r.k), {}, {}};
  std::fill(d.x.bytes.begin(), d.x.bytes.end(), char(0xff));
  std::normal_distribution<float> normal;
  for (int64_t m = 0; m < r.m; ++m) {
    // Rows of many magnitudes, some with ties, some one-sided, some of zeros.
    const float size = std::ldexp(1.0f, static_cast<int>(uniform(rng, -9, 9)));
    const int kind = static_cast<int>(uniform(rng, 0, 7));
    for (int64_t k = 0; k < r.k; ++k) {
      float value = normal(rng) * size;
      if (kind == 0) value = std::abs(value);
      if (kind == 1) value = -std::abs(value);
      if (kind == 2) value = static_cast<float>(uniform(rng, -254, 254)) * 0.5f;
      if (kind == 3) value = 0;
      // With RMSNorm the squares must have exact sums, whose order then does not matter.
      if (r.norm) value = static_cast<float>(uniform(rng, -40, 40)) * size;
      d.set(m, k, value);
    }
  }
  for (int64_t k = 0; k < r.k; ++k) d.norm_weight.set(k, normal(rng));
  for (int64_t i = 0; i < (r.granularity == Granularity::tensor ? 1 : r.m); ++i) {
    d.scale.push_back(std::ldexp(1.0f + 0.01f * static_cast<float>(uniform(rng, 0, 99)),
                                 static_cast<int>(uniform(rng, -12, 4))));
    d.zero.push_back(static_cast<int32_t>(uniform(rng, -128, 127)));
  }
  return d;
}

struct Result {
  std::vector<uint8_t> q;
  std::vector<float> scale;
  std::vector<int32_t> zero;
};

size_t scales_of(const Rows& r) {
  if (r.granularity == Granularity::tensor) return 1;
  return static_cast<size_t>(r.granularity == Granularity::row ? r.m
                                                               : r.m * ceil_div(r.k, kScaleBlock));
}

void set_int8(QuantizeInt8Args& args, const Data& d, bool symmetric) {
  args.symmetric = symmetric;
  args.granularity = d.shape.granularity;
  args.given_scale = d.shape.given ? d.scale.data() : nullptr;
  args.given_zero = d.shape.given && !symmetric ? d.zero.data() : nullptr;
}

Result on_cpu(const Data& d, bool symmetric) {
  Result r{std::vector<uint8_t>(static_cast<size_t>(d.shape.m * d.shape.k)),
           std::vector<float>(scales_of(d.shape)), std::vector<int32_t>(scales_of(d.shape))};
  QuantizeInt8Args args{.x = d.rows(),
                        .q = reinterpret_cast<int8_t*>(r.q.data()),
                        .scale = r.scale.data(),
                        .zero = symmetric ? nullptr : r.zero.data()};
  set_int8(args, d, symmetric);
  const Status status = quantize_int8(args, Executor());
  EXPECT_TRUE(status.ok()) << status.message();
  return r;
}
Result on_cpu(const Data& d, Float8 type) {
  Result r{std::vector<uint8_t>(static_cast<size_t>(d.shape.m * d.shape.k)),
           std::vector<float>(scales_of(d.shape)),
           {}};
  const Status status = quantize_fp8({.x = d.rows(),
                                      .type = type,
                                      .granularity = d.shape.granularity,
                                      .given_scale = d.shape.given ? d.scale.data() : nullptr,
                                      .q = r.q.data(),
                                      .scale = r.scale.data()},
                                     Executor());
  EXPECT_TRUE(status.ok()) << status.message();
  return r;
}

// The same in the emulator. How the arguments differ: set(args).
template <class Args, class Set>
Result emulated(const Data& d, Rng& rng, const Set& set) {
  const int64_t skip = d.shape.misaligned * size_of(d.shape.dtype);
  const simt::Buffer x("x", d.x.bytes), norm_weight("norm_weight", d.norm_weight.bytes);
  const simt::Buffer given_scale("given scale", d.scale), given_zero("given zero", d.zero);
  const simt::Buffer q("q", static_cast<size_t>(d.shape.m * d.shape.k), Access::write_once);
  const simt::Buffer scale("scale", scales_of(d.shape) * 4, Access::write_once);
  const simt::Buffer zero("zero", scales_of(d.shape) * 4, Access::write_once);
  Args args{};
  args.x = d.rows();
  args.x.x = x.data<char>() + skip;
  if (d.shape.norm) args.x.norm_weight = norm_weight.data<char>();
  args.granularity = d.shape.granularity;
  args.given_scale = d.shape.given ? given_scale.data<float>() : nullptr;
  args.q = q.data<std::remove_reference_t<decltype(*args.q)>>();
  args.scale = scale.data<float>();
  set(args, given_zero.data<int32_t>(), zero.data<int32_t>());
  const simt::Buffer workspace(
      "workspace", static_cast<size_t>(quantize::workspace_bytes_of(quantize::params_of(args))),
      Access::write_once);
  args.workspace = workspace.data<char>();
  const Status status = quantize::run(args, Emulator(any_schedule(rng)));
  EXPECT_TRUE(status.ok()) << status.message();
  return {q.values<uint8_t>(), scale.values<float>(), zero.values<int32_t>()};
}

Result emulated(const Data& d, bool symmetric, Rng& rng) {
  return emulated<QuantizeInt8Args>(d, rng, [&](auto& args, const int32_t* given, int32_t* zero) {
    args.symmetric = symmetric;
    if (!symmetric) args.zero = zero;
    if (!symmetric && d.shape.given) args.given_zero = given;
  });
}
Result emulated(const Data& d, Float8 type, Rng& rng) {
  return emulated<QuantizeFp8Args>(d, rng,
                                   [&](auto& args, const int32_t*, int32_t*) { args.type = type; });
}

bool same_or_nan(float a, float b) {
  return std::isnan(a) ? std::isnan(b) : std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

void expect_same(const Result& got, const Result& expected, bool zeros, const std::string& what) {
  for (size_t i = 0; i < expected.scale.size(); ++i) {
    ASSERT_TRUE(same_or_nan(got.scale[i], expected.scale[i]))
        << what << ", scale " << i << ": expected " << expected.scale[i] << ", got "
        << got.scale[i];
    if (zeros) {
      ASSERT_EQ(got.zero[i], expected.zero[i]) << what << ", zero " << i;
    }
  }
  ASSERT_EQ(got.q.size(), expected.q.size());
  for (size_t i = 0; i < expected.q.size(); ++i) {
    ASSERT_EQ(int{got.q[i]}, int{expected.q[i]}) << what << ", code " << i;
  }
}

// NaN of an 8-bit float may have either sign.
void drop_signs_of_nan(std::vector<uint8_t>& q, Float8 type) {
  for (uint8_t& code : q) {
    const int magnitude = code & 0x7f;
    if (magnitude > (type == Float8::e4m3 ? 0x7e : 0x7c)) code = 0x7f;
  }
}

void compare(const Data& d, Rng& rng) {
  if (d.shape.granularity != Granularity::block) {
    for (const bool symmetric : {true, false}) {
      expect_same(emulated(d, symmetric, rng), on_cpu(d, symmetric), !symmetric,
                  describe(d.shape) + (symmetric ? ", symmetric" : ", asymmetric"));
    }
  }
  for (const Float8 type : {Float8::e4m3, Float8::e5m2}) {
    Result got = emulated(d, type, rng), expected = on_cpu(d, type);
    drop_signs_of_nan(got.q, type);
    drop_signs_of_nan(expected.q, type);
    expect_same(got, expected, false, describe(d.shape) + ", " + name(type));
  }
}

TEST(QuantizeCuda, GivesTheBitsOfTheCpu) {
  Rng rng = fresh_rng(51);
  for (int i = 0; i < 150; ++i) {
    compare(random_data(random_rows(rng, true), rng), rng);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(QuantizeCuda, InfinitiesNanAndExtremesAreThoseOfTheCpu) {
  Rng rng = fresh_rng(52);
  const float inf = std::numeric_limits<float>::infinity(), most = 3.4e38f, least = 1e-45f;
  for (int i = 0; i < 60; ++i) {
    Rows r = random_rows(rng, true);
    r.norm = false;
    Data d = random_data(r, rng);
    for (int j = 0; j < 3; ++j) {
      d.set(uniform(rng, 0, r.m - 1), uniform(rng, 0, r.k - 1),
            pick(rng, {inf, -inf, NAN, -NAN, most, -most, least, -least, -0.0f, 1e-40f}));
    }
    for (float& scale : d.scale) {
      scale = pick(rng, {scale, scale, 0.0f, inf, NAN, 1e-38f, 3e38f, 1e-20f, 1e20f, 1e-42f});
    }
    compare(d, rng);
    if (::testing::Test::HasFailure()) return;
  }
}

// Where sums of squares are not exact the factor of RMSNorm may differ in its last bits, and with
// it a code that lies at a border.
TEST(QuantizeCuda, RmsNormIsCloseToTheExactOne) {
  Rng rng = fresh_rng(53);
  for (int i = 0; i < 20; ++i) {
    Rows r = random_rows(rng, false);
    r.norm = false;  // so that any numbers are made
    r.given = false;
    r.granularity = Granularity::row;
    Data d = random_data(r, rng);
    d.shape.norm = true;
    const Result got = emulated(d, true, rng), expected = on_cpu(d, true);
    for (size_t m = 0; m < got.scale.size(); ++m) {
      EXPECT_NEAR(got.scale[m], expected.scale[m], 1e-5 * std::abs(expected.scale[m]));
    }
    size_t differ = 0;
    for (size_t j = 0; j < got.q.size(); ++j) {
      const int distance = static_cast<int8_t>(got.q[j]) - static_cast<int8_t>(expected.q[j]);
      ASSERT_LE(std::abs(distance), 1) << describe(d.shape);
      differ += distance != 0;
    }
    EXPECT_LE(differ, 1 + got.q.size() / 100);
  }
}

// The quotients by a hoisted reciprocal, over the range where they are used and near its ends.
TEST(QuantizeCuda, DivisionIsThatOfIeee) {
  Rng rng = fresh_rng(54);
  std::uniform_real_distribution<float> mantissa(1, 2);
  for (int i = 0; i < 200000; ++i) {
    const float by = pick(rng, {1.0f, -1.0f}) *
                     std::ldexp(i % 5 == 0 ? std::nextafter(2.0f, 1.0f) : mantissa(rng),
                                static_cast<int>(uniform(rng, -62, 61)));
    float x[8], quotient[8];
    for (float& value : x) {
      value = by * std::ldexp(mantissa(rng), static_cast<int>(uniform(rng, -17, 17)));
      if (uniform(rng, 0, 20) == 0)
        value = by * (static_cast<float>(uniform(rng, -127, 127)) + 0.5f);
    }
    quantize::Divisor(by).divide(x, quotient);
    for (int j = 0; j < 8; ++j) {
      ASSERT_EQ(std::bit_cast<uint32_t>(quotient[j]), std::bit_cast<uint32_t>(x[j] / by))
          << x[j] << " / " << by;
    }
  }
}

TEST(QuantizeCuda, OneLaunchUnlessTheTensorHasOneScale) {
  for (const Granularity granularity :
       {Granularity::tensor, Granularity::row, Granularity::block}) {
    const float x = 0;
    uint8_t q = 0;
    const QuantizeFp8Args args{.x = {.m = 1, .k = 1, .x = &x}, .granularity = granularity, .q = &q};
    EXPECT_EQ(quantize::workspace_bytes_of(quantize::params_of(args)),
              granularity == Granularity::tensor ? 8 : 0);
  }
}

}  // namespace
}  // namespace qcore
