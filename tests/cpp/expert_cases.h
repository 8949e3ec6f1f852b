// Problems whose weight is that of several experts, made of dense ones, for the tests of every op
// that takes them.
#pragma once

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "canonical_cases.h"
#include "cases.h"
#include "kquant_cases.h"

namespace qcore::testing {

// How many rows of x each expert has: none, few or many, all of them with one, or none at all.
inline std::vector<int64_t> random_expert_rows(Rng& rng) {
  std::vector<int64_t> rows(static_cast<size_t>(pick<int64_t>(rng, {1, 2, 3, 5, 8, 32})));
  const int64_t kind = uniform(rng, 0, 9);
  if (kind == 0) return rows;
  if (kind == 1) {
    rows[static_cast<size_t>(uniform(rng, 0, static_cast<int64_t>(rows.size()) - 1))] =
        uniform(rng, 1, 140);
    return rows;
  }
  for (int64_t& count : rows) {
    count = pick<int64_t>(rng, {0, 0, 0, 1, 1, 2, 3, 7, 8, 9, uniform(rng, 1, 30)});
    if (kind == 2 && rng() % 8 == 0) count = uniform(rng, 100, 280);  // several blocks
  }
  return rows;
}

inline std::vector<int32_t> offsets_of(const std::vector<int64_t>& rows) {
  std::vector<int32_t> offsets(rows.size() + 1);
  for (size_t e = 0; e < rows.size(); ++e) {
    offsets[e + 1] = offsets[e] + static_cast<int32_t>(rows[e]);
  }
  return offsets;
}

inline std::string describe_rows(const std::vector<int64_t>& rows) {
  std::string text = "rows of experts:";
  for (const int64_t count : rows) text.append(" ").append(std::to_string(count));
  return text;
}

template <class T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

// What a call for all experts reads: that of dense calls, one after the other.
template <class Data>
Data all_rows(const std::vector<Data>& each, int64_t gap, DType dtype) {
  Data all = each.front();
  all.shape.m = 0;
  all.x.bytes.clear();
  all.bias.bytes.clear();
  for (const Data& one : each) {
    if (one.shape.m == 0) {
      append(all.bias.bytes, one.bias.bytes);
      continue;
    }
    if (all.shape.m > 0) {  // the gap in front of the next row
      all.x.bytes.resize(all.x.bytes.size() + static_cast<size_t>(gap * size_of(dtype)),
                         char(0xff));
    }
    all.shape.m += one.shape.m;
    append(all.x.bytes, one.x.bytes);
    append(all.bias.bytes, one.bias.bytes);
  }
  return all;
}

// A call of op "w4a16" and the dense ones that it is made of.
struct W4A16Experts {
  using Op = W4A16;

  W4A16Experts(const Row<W4A16>& row, const std::vector<int64_t>& rows, Rng& rng)
      : row_(row), offsets_(offsets_of(rows)) {
    shape = random_case(rng);
    for (const int64_t m : rows) {
      shape.m = m;
      each.push_back(random_data(shape, rng));
    }
    all_ = all_rows(each, shape.gap, shape.dtype);
    all_.perm.clear();
    all_.weight = each.front().weight;
    all_.weight.shape.experts = static_cast<int64_t>(rows.size());
    all_.weight.codes.clear();
    all_.weight.scales.bytes.clear();
    all_.weight.zeros.clear();
    for (const GemmData& one : each) {
      append(all_.perm, one.perm);
      append(all_.weight.codes, one.weight.codes);
      append(all_.weight.scales.bytes, one.weight.scales.bytes);
      append(all_.weight.zeros, one.weight.zeros);
    }
    packed_ = pack(row, all_.weight);
    EXPECT_TRUE(packed_.status.ok()) << packed_.status.message();
  }

  DType dtype() const { return shape.dtype; }
  int64_t n() const { return shape.weight.n; }
  int64_t m() const { return all_.shape.m; }
  std::string text() const { return describe(shape); }

  W4A16Args args(void* y) const {
    W4A16Args a = all_.args(packed_.view, y);
    a.offsets = offsets_.data();
    return a;
  }
  Status run_dense(size_t expert, void* y) const {
    const Packed packed = pack(row_, each[expert].weight);
    return row_.run(each[expert].args(packed.view, y), {});
  }
  // Of one expert; each as far off as may be.
  std::vector<Exact> exact(size_t expert) const {
    std::vector<Exact> y = exact_gemm(each[expert]);
    for (Exact& e : y) {
      e.magnitude = 8 * 0x1p-23 * e.magnitude + 1.01 * half_step(shape.dtype, e.value);
    }
    return y;
  }

  Case shape;
  std::vector<GemmData> each;

 private:
  const Row<W4A16>& row_;
  std::vector<int32_t> offsets_;
  GemmData all_;
  Packed packed_;
};

struct KquantExperts {
  using Op = Kquant;

  KquantExperts(const Row<Kquant>& row, const std::vector<int64_t>& rows, Rng& rng)
      : row_(row), offsets_(offsets_of(rows)) {
    const auto formats = block_formats();
    const auto number = uniform(rng, 0, static_cast<int64_t>(formats.size()) - 1);
    shape = random_kquant_case(formats[static_cast<size_t>(number)], rng);
    for (const int64_t m : rows) {
      shape.m = m;
      each.push_back(random_data(shape, rng));
    }
    all_ = all_rows(each, shape.gap, shape.dtype);
    all_.shape.weight.experts = static_cast<int64_t>(rows.size());
    all_.blocks.clear();
    for (const KquantData& one : each) append(all_.blocks, one.blocks);
    packed_ = all_.pack(row.weight_layout());
  }

  DType dtype() const { return shape.dtype; }
  int64_t n() const { return shape.weight.n; }
  int64_t m() const { return all_.shape.m; }
  std::string text() const { return describe(shape); }

  KquantArgs args(void* y) const {
    KquantArgs a = all_.args(packed_.view, y);
    a.offsets = offsets_.data();
    return a;
  }
  Status run_dense(size_t expert, void* y) const {
    const PackedKquant packed = each[expert].pack(row_.weight_layout());
    return row_.run(each[expert].args(packed.view, y), {});
  }
  std::vector<Exact> exact(size_t expert) const {
    const int64_t steps =
        shape.float_activations ? shape.weight.k : 2 * shape.weight.blocks_per_row();
    const double step = (8 + static_cast<double>(steps)) * 0x1p-24;
    std::vector<Exact> y = exact_gemm(each[expert]);
    for (Exact& e : y) {
      e.magnitude = step * e.magnitude + 1.01 * half_step(shape.dtype, e.value);
    }
    return y;
  }

  KquantCase shape;
  std::vector<KquantData> each;

 private:
  const Row<Kquant>& row_;
  std::vector<int32_t> offsets_;
  KquantData all_;
  PackedKquant packed_;
};

struct Int8Experts {
  using Op = Int8;

  Int8Experts(const Row<Int8>& row, const std::vector<int64_t>& rows, Rng& rng)
      : row_(row), offsets_(offsets_of(rows)) {
    shape = random_int8_case(rng);
    for (const int64_t m : rows) {
      shape.m = m;
      each.push_back(random_data(shape, rng));
      if (shape.x_scales == Granularity::tensor) {  // the same for all
        each.back().x_scale = each.front().x_scale;
        each.back().zeros = each.front().zeros;
      }
    }
    all_ = each.front();
    for (size_t e = 1; e < each.size(); ++e) {
      all_.shape.m += each[e].shape.m;
      append(all_.x, each[e].x);
      append(all_.weight, each[e].weight);
      append(all_.w_scale, each[e].w_scale);
      append(all_.sums, each[e].sums);
      append(all_.bias.bytes, each[e].bias.bytes);
      if (shape.x_scales == Granularity::tensor) continue;
      append(all_.x_scale, each[e].x_scale);
      append(all_.zeros, each[e].zeros);
    }
  }

  DType dtype() const { return shape.dtype; }
  int64_t n() const { return shape.n; }
  int64_t m() const { return all_.shape.m; }
  std::string text() const { return describe(shape); }

  Int8Args args(void* y) const {
    Int8Args a = all_.args(y);
    a.experts = static_cast<int64_t>(each.size());
    a.offsets = offsets_.data();
    return a;
  }
  Status run_dense(size_t expert, void* y) const { return row_.run(each[expert].args(y), {}); }
  std::vector<Exact> exact(size_t expert) const {
    std::vector<Exact> y;
    for (int64_t i = 0; i < each[expert].shape.m * shape.n; ++i) {
      y.push_back({exact_int8(each[expert], i / shape.n, i % shape.n), 0});
    }
    return y;
  }

  Int8Case shape;
  std::vector<Int8Data> each;

 private:
  const Row<Int8>& row_;
  std::vector<int32_t> offsets_;
  Int8Data all_;
};

}  // namespace qcore::testing
