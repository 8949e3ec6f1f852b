#include <gtest/gtest.h>

#include "canonical_cases.h"
#include "qcore/fake_quantize.h"
#include "thread_pool.h"

namespace qcore {
namespace {

using namespace testing;

constexpr float kNumbers[] = {-1.0f, -0.3f, 0.0f, 0.2f, 1.5f};

TiledElements random_grid(Rng& rng, int64_t n, int64_t k) {
  using enum Elements;
  TiledElements grid;
  grid.elements = pick(rng, {u2, u3, u4, u8, s8, e4m3, e5m2});
  if (rng() % 5 == 0) grid.numbers = kNumbers, grid.count = 5;
  grid.rows = pick<int64_t>(rng, {1, 1, 2, 5, n});
  grid.columns = pick<int64_t>(rng, {1, 7, 16, 32, 128, k});
  grid.zero_points = !grid.numbers && takes_zeros(grid.elements) && rng() % 2;
  return grid;
}

struct Case {
  RowsData w, dy;
  TiledElements grid;
  std::vector<float> scales, zeros;  // some scales are given

  size_t tiles() const {
    return static_cast<size_t>(grid.bands(w.shape.m) * grid.groups(w.shape.k));
  }
};

Case random_case(Rng& rng) {
  RowsCase shape = random_rows_case(rng);
  shape.norm = false;
  Case c{random_data(shape, rng), {}, random_grid(rng, shape.m, shape.k), {}, {}};
  shape.gap = 3;
  c.dy = random_data(shape, rng);
  c.scales = random_scales(static_cast<int64_t>(c.tiles()), rng);
  for (size_t i = 0; c.grid.zero_points && i < c.tiles(); ++i) {
    c.zeros.push_back(static_cast<float>(uniform(rng, 0, (1 << bits_of(c.grid.elements)) - 1)));
  }
  return c;
}

// The bits of a result: NaN of any kind is one.
struct Written {
  std::vector<char> y;
  std::vector<float> first, second;
  bool operator==(const Written& o) const {
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float u, float v) {
        return (std::isnan(u) && std::isnan(v)) || std::memcmp(&u, &v, 4) == 0;
      });
    };
    return y == o.y && same(first, o.first) && same(second, o.second);
  }
};

Written finish(const Case& c, Buffer y, std::vector<float> first, std::vector<float> second) {
  for (int64_t i = 0; i < c.w.shape.m * c.w.shape.k; ++i) {
    if (std::isnan(y.get(i))) y.set(i, NAN);
  }
  return {std::move(y.bytes), std::move(first), std::move(second)};
}

Written forward(const Row<FakeQuantize>& row, const Case& c, bool given, ScaleType type,
                float second, const Parallel& parallel = {}) {
  Buffer y(c.w.shape.dtype, c.w.shape.m * c.w.shape.k);
  std::fill(y.bytes.begin(), y.bytes.end(), char(0x55));
  std::vector<float> scale(c.tiles(), -7), zero(c.grid.zero_points ? c.tiles() : 0, -7);
  FakeQuantizeArgs args{.w = c.w.rows(), .grid = c.grid};
  if (given) {
    args.given_scale = c.scales.data();
    args.given_zero = c.grid.zero_points ? c.zeros.data() : nullptr;
  }
  args.scale_type = type;
  args.second = second;
  args.y = y.data();
  args.scale = scale.data();
  args.zero = c.grid.zero_points ? zero.data() : nullptr;
  const Status status = row.run(args, parallel);
  EXPECT_TRUE(status.ok()) << status.message();
  return finish(c, std::move(y), std::move(scale), std::move(zero));
}

Written backward(const Row<FakeQuantizeBackward>& row, const Case& c, bool passes, bool learns,
                 const Parallel& parallel = {}) {
  Buffer dw(c.w.shape.dtype, c.w.shape.m * c.w.shape.k);
  std::fill(dw.bytes.begin(), dw.bytes.end(), char(0x55));
  std::vector<float> dscale(c.tiles(), -7), dzero(c.grid.zero_points ? c.tiles() : 0, -7);
  FakeQuantizeBackwardArgs args{.w = c.w.rows(), .dy = c.dy.rows(), .grid = c.grid};
  args.scale = c.scales.data();
  args.zero = c.grid.zero_points ? c.zeros.data() : nullptr;
  args.passes_outside = passes;
  args.dw = dw.data();
  args.dscale = learns ? dscale.data() : nullptr;
  args.dzero = learns && c.grid.zero_points ? dzero.data() : nullptr;
  const Status status = row.run(args, parallel);
  EXPECT_TRUE(status.ok()) << status.message();
  return finish(c, std::move(dw), std::move(dscale), std::move(dzero));
}

// The reference row is compared with definitions in numpy and torch by tests/test_fake_quant.py.
TEST(FakeQuantize, EveryRowHasTheBitsOfTheReference) {
  ThreadPool two(2);
  Rng rng(91);
  const auto rows = runnable_rows<FakeQuantize>();
  for (int i = 0; i < 600; ++i) {
    const Case c = random_case(rng);
    const bool given = rng() % 2;
    using enum ScaleType;
    const ScaleType type = pick(rng, {f32, f16, bf16, e4m3, e8m0});
    const float second = pick(rng, {0.0f, 0.0f, 0.37f});
    const auto expected = forward(*rows.back(), c, given, type, second);
    for (const Row<FakeQuantize>* row : rows) {
      const std::string what = std::string(row->name) + " " + describe(c.w.shape) + " " +
                               name(c.grid.elements) + " " + std::to_string(c.grid.rows) + "x" +
                               std::to_string(c.grid.columns);
      ASSERT_TRUE(forward(*row, c, given, type, second) == expected) << what;
      ASSERT_TRUE(forward(*row, c, given, type, second, two.parallel()) == expected) << what;
      const FlushSubnormals flush;
      ASSERT_TRUE(forward(*row, c, given, type, second) == expected) << what;
    }
  }
}

TEST(FakeQuantizeBackward, EveryRowHasTheBitsOfTheReference) {
  ThreadPool two(2);
  Rng rng(92);
  const auto rows = runnable_rows<FakeQuantizeBackward>();
  for (int i = 0; i < 600; ++i) {
    const Case c = random_case(rng);
    const bool passes = rng() % 2, learns = rng() % 3;
    const auto expected = backward(*rows.back(), c, passes, learns);
    for (const Row<FakeQuantizeBackward>* row : rows) {
      const std::string what =
          std::string(row->name) + " " + describe(c.w.shape) + " " + name(c.grid.elements);
      ASSERT_TRUE(backward(*row, c, passes, learns) == expected) << what;
      ASSERT_TRUE(backward(*row, c, passes, learns, two.parallel()) == expected) << what;
    }
  }
}

TEST(FakeQuantize, WhatIsWrongIsNamed) {
  float w[8] = {}, y[8], scale[4] = {1, 1, 1, 1};
  FakeQuantizeArgs good{.w = {.m = 2, .k = 4, .x = w, .stride = 4}, .grid = {.columns = 2}};
  good.y = y;
  ASSERT_TRUE(fake_quantize(good, {}).ok());
  const auto message = [&](auto change) {
    FakeQuantizeArgs args = good;
    change(args);
    const Status status = fake_quantize(args, {});
    EXPECT_FALSE(status.ok());
    return status.message();
  };
  EXPECT_EQ(message([](auto& a) { a.grid.rows = 0; }), "grid.rows: expected 1 or more, got 0");
  EXPECT_EQ(message([](auto& a) { a.grid.columns = -1; }),
            "grid.columns: expected 1 or more, got -1");
  EXPECT_EQ(message([](auto& a) { a.y = nullptr; }), "y: expected a pointer, got null");
  EXPECT_EQ(message([](auto& a) { a.w.k = 0; }), "x.k: expected 1 or more, got 0");
  EXPECT_EQ(message([&](auto& a) { a.given_zero = scale; }),
            "given_zero: expected null, because given_scale is null");
  EXPECT_EQ(message([&](auto& a) { a.grid.zero_points = true, a.given_scale = scale; }),
            "given_zero: expected a pointer, got null");
}

}  // namespace
}  // namespace qcore
