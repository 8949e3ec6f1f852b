// The one generator of int_group problems, shared by the tests and benches of every kernel: shapes,
// random weights and activations, and the exact answer in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "numerics/float16.h"
#include "numerics/float8.h"
#include "qcore/qcore.h"

namespace qcore::testing {

using Rng = std::mt19937_64;

inline int64_t uniform(Rng& rng, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(rng);
}

// Flushes subnormal numbers in this thread, as torch.set_flush_denormal(True) does.
class FlushSubnormals {
 public:
#if defined(__x86_64__)
  FlushSubnormals() : before_(__builtin_ia32_stmxcsr()) {
    __builtin_ia32_ldmxcsr(before_ | 0x8040);
  }
  ~FlushSubnormals() { __builtin_ia32_ldmxcsr(before_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  unsigned before_;
#else
  FlushSubnormals() {}
#endif
};

// Elements of a DType in memory.
struct Buffer {
  DType dtype = DType::f32;
  std::vector<char> bytes;

  Buffer() = default;
  Buffer(DType type, int64_t count)
      : dtype(type), bytes(static_cast<size_t>(count * size_of(type))) {}
  const void* data() const { return bytes.data(); }
  void* data() { return bytes.data(); }
  float get(int64_t i) const { return load_scalar(dtype, bytes.data(), i); }
  void set(int64_t i, float value) { store_scalar(dtype, bytes.data(), i, value); }
};

// An int_group weight as a method made it: codes [N, K], scales and zeros [N, G].
struct Weight {
  ScaledWeight shape;
  std::vector<uint8_t> codes;
  Buffer scales;
  std::vector<uint8_t> zeros;  // empty if symmetric

  ScaledView view() const {
    return {shape, {codes.data()}, scales.data(), shape.has_zeros ? zeros.data() : nullptr};
  }
  // What a code stands for, before its scale.
  double value(int64_t n, int64_t k) const {
    if (!is_float(shape.elements)) return centred(n, k) - zero_less_center(n, k / shape.group_size);
    return f32_from_float8(float8_of(shape.elements), codes[static_cast<size_t>(n * shape.k + k)]);
  }
  int centred(int64_t n, int64_t k) const {
    return codes[static_cast<size_t>(n * shape.k + k)] - center_of(shape.elements);
  }
  int zero_less_center(int64_t n, int64_t g) const {
    return shape.has_zeros
               ? zeros[static_cast<size_t>(n * shape.groups() + g)] - center_of(shape.elements)
               : 0;
  }
};

inline Weight random_weight(const ScaledWeight& shape, Rng& rng) {
  Weight w{shape, {}, Buffer(shape.scale_dtype, shape.n * shape.groups()), {}};
  w.codes.resize(static_cast<size_t>(shape.n * shape.k));
  for (uint8_t& code : w.codes) {
    do {
      code = static_cast<uint8_t>(rng() >> (64 - shape.bits()));
    } while (is_float(shape.elements) &&
             !std::isfinite(f32_from_float8(float8_of(shape.elements), code)));
  }
  for (int64_t i = 0; i < shape.n * shape.groups(); ++i) {
    w.scales.set(i, 0.01f + 0.09f * static_cast<float>(uniform(rng, 0, 1000)) / 1000.0f);
  }
  if (shape.has_zeros) {
    w.zeros.resize(static_cast<size_t>(shape.n * shape.groups()));
    for (uint8_t& zero : w.zeros) zero = static_cast<uint8_t>(rng() >> (64 - shape.bits()));
  }
  return w;
}

// A packed weight with its memory.
struct Packed {
  std::vector<char> qweight, scales;
  std::vector<uint8_t> zeros;
  PackedScaled view;
  Status status;
};

inline Packed pack(const ScaledLayout& layout, const Weight& w, const Parallel& parallel = {}) {
  Packed p;
  const PackedSizes sizes = packed_sizes(layout, w.shape);
  p.qweight.resize(static_cast<size_t>(sizes.qweight_bytes), char(0xcc));
  p.scales.resize(static_cast<size_t>(sizes.scales * size_of(w.shape.scale_dtype)), char(0xcc));
  p.zeros.resize(static_cast<size_t>(sizes.zeros), uint8_t{0xcc});
  uint8_t* zeros = w.shape.has_zeros ? p.zeros.data() : nullptr;
  p.status = qcore::pack(layout, w.view(), {p.qweight.data(), p.scales.data(), zeros}, parallel);
  p.view = {w.shape, layout.number, p.qweight.data(), p.scales.data(), zeros};
  return p;
}

inline Packed pack(const Row<W4A16>& row, const Weight& w, const Parallel& parallel = {}) {
  return pack(row.weight_layout(), w, parallel);
}

struct Case {
  ScaledWeight weight;
  int64_t m = 1;
  DType dtype = DType::f32;
  bool perm = false, bias = false;
  int64_t gap = 0;  // elements between rows of x
};

inline std::string describe(const Case& c) {
  const ScaledWeight& w = c.weight;
  std::string text = "m=" + std::to_string(c.m) + " n=" + std::to_string(w.n) +
                     " k=" + std::to_string(w.k) + " group=" + std::to_string(w.group_size) +
                     " bits=" + std::to_string(w.bits()) + " scales=" + name(w.scale_dtype) +
                     " dtype=" + name(c.dtype);
  if (w.has_zeros) text += " zeros";
  if (is_float(w.elements)) text += std::string(" ") + name(w.elements);
  if (c.perm) text += " perm";
  if (c.bias) text += " bias";
  if (c.gap) text += " gap=" + std::to_string(c.gap);
  return text;
}

template <class T>
T pick(Rng& rng, std::initializer_list<T> values) {
  return values.begin()[uniform(rng, 0, static_cast<int64_t>(values.size()) - 1)];
}

// Shapes at and around every boundary of the kernels: panels of 16, units of 32, segments of 128,
// groups that do not divide, blocks of rows.
inline Case random_case(Rng& rng) {
  Case c;
  ScaledWeight& w = c.weight;
  w.elements = pick(rng, {Elements::u2, Elements::u3, Elements::u4, Elements::u8});
  w.n = pick<int64_t>(rng, {1, 15, 16, 17, 31, 32, 48, 65, uniform(rng, 1, 100)});
  w.k = pick<int64_t>(rng, {1, 31, 32, 33, 127, 128, 129, 256, 300, uniform(rng, 1, 700)});
  w.group_size = std::min(
      w.k, pick<int64_t>(rng, {1, 7, 16, 32, 33, 64, 100, 128, 160, w.k, uniform(rng, 1, w.k)}));
  if (w.group_size < 4) w.k = std::min<int64_t>(w.k, 130);  // each group is padded to 32 columns
  w.has_zeros = pick(rng, {false, true});
  w.scale_dtype = pick(rng, {DType::f32, DType::f16, DType::bf16});
  c.dtype = pick(rng, {DType::f32, DType::f16, DType::bf16});
  c.m =
      pick<int64_t>(rng, {0, 1, 2, 3, 4, 5, 7, 8, 9, 13, 17, 127, 128, 129, uniform(rng, 1, 200)});
  c.perm = pick(rng, {false, false, true});
  c.bias = pick(rng, {false, true});
  c.gap = pick<int64_t>(rng, {0, 0, 1, 13});
  return c;
}

// Everything a gemm reads, and what it should answer.
struct GemmData {
  Case shape;
  Weight weight;
  Buffer x, bias;
  int64_t x_stride = 0;
  std::vector<int32_t> perm;

  W4A16Args args(const PackedScaled& packed, void* y) const {
    return {.m = shape.m,
            .dtype = shape.dtype,
            .x = x.data(),
            .x_stride = x_stride,
            .weight = packed,
            .perm = shape.perm ? perm.data() : nullptr,
            .bias = shape.bias ? bias.data() : nullptr,
            .y = y};
  }
  double x_at(int64_t m, int64_t k) const {
    return x.get(m * x_stride + (shape.perm ? perm[static_cast<size_t>(k)] : k));
  }
};

inline GemmData random_data(const Case& c, Rng& rng) {
  GemmData d{c, random_weight(c.weight, rng), {}, {}, c.weight.k + c.gap, {}};
  const int64_t k = c.weight.k;
  d.x = Buffer(c.dtype, std::max<int64_t>(0, c.m * d.x_stride - c.gap));
  std::fill(d.x.bytes.begin(), d.x.bytes.end(), char(0xff));  // NaN in the gaps
  std::normal_distribution<float> normal;
  for (int64_t m = 0; m < c.m; ++m) {
    for (int64_t i = 0; i < k; ++i) d.x.set(m * d.x_stride + i, normal(rng));
  }
  d.bias = Buffer(c.dtype, c.weight.n);
  for (int64_t n = 0; n < c.weight.n; ++n) d.bias.set(n, normal(rng));
  d.perm.resize(static_cast<size_t>(k));
  for (size_t i = 0; i < d.perm.size(); ++i) d.perm[i] = static_cast<int32_t>(i);
  std::shuffle(d.perm.begin(), d.perm.end(), rng);
  return d;
}

struct Exact {
  double value;
  double magnitude;  // sum of |x| |scale| |code - zero|, which bounds fp32 errors
};

// [M, N]
inline std::vector<Exact> exact_gemm(const GemmData& d) {
  const ScaledWeight& w = d.weight.shape;
  std::vector<double> x(static_cast<size_t>(d.shape.m * w.k));
  for (int64_t m = 0; m < d.shape.m; ++m) {
    for (int64_t k = 0; k < w.k; ++k) x[static_cast<size_t>(m * w.k + k)] = d.x_at(m, k);
  }
  std::vector<Exact> y(static_cast<size_t>(d.shape.m * w.n));
  std::vector<double> row(static_cast<size_t>(w.k));
  for (int64_t n = 0; n < w.n; ++n) {
    for (int64_t k = 0; k < w.k; ++k) {
      const int64_t g = k / w.group_size;
      const double scale = d.weight.scales.get(n * w.groups() + g);
      row[static_cast<size_t>(k)] = scale * d.weight.value(n, k);
    }
    for (int64_t m = 0; m < d.shape.m; ++m) {
      const double* xm = x.data() + m * w.k;
      double value = d.shape.bias ? d.bias.get(n) : 0.0, magnitude = std::abs(value);
      for (int64_t k = 0; k < w.k; ++k) {
        const double product = xm[k] * row[static_cast<size_t>(k)];
        value += product;
        magnitude += std::abs(product);
      }
      y[static_cast<size_t>(m * w.n + n)] = {value, magnitude};
    }
  }
  return y;
}

// The rows of an op on a device; on the CPU, those that this machine can run.
template <class Op>
std::vector<const Row<Op>*> rows_on(Device device) {
  std::vector<const Row<Op>*> rows;
  for (const KernelRow* row : kernels()) {
    const Row<Op>* of_op = row_of<Op>(*row);
    if (of_op && row->device == device && has_isa(row->isa())) rows.push_back(of_op);
  }
  return rows;
}

template <class Op>
std::vector<const Row<Op>*> runnable_rows() {
  return rows_on<Op>(Device::cpu);
}

}  // namespace qcore::testing
