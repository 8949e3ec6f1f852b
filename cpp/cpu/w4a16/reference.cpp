// The row that takes every problem on every machine: panel16 decoded with get_code(), sums in
// double.
#include <memory>
#include <new>

#include "cpu/layouts/panel16.h"
#include "cpu/w4a16/kernels.h"
#include "numerics/float16.h"
#include "numerics/float8.h"
#include "numerics/float_mode.h"

namespace qcore::reference {
namespace {

using panel16::Geometry;

// w[k] of row n, dequantized; the product of a scale and a code is exact in double.
void dequantize_row(const PackedIntGroup& weight, const Geometry& g, int64_t n, double* w) {
  const int64_t panel = n / panel16::kRows;
  const int r = static_cast<int>(n % panel16::kRows);
  for (int64_t group = 0; group < g.groups; ++group) {
    const int64_t parameter = g.group_offset(panel, group) + r;
    const double scale = load_scalar(weight.shape.scale_dtype, weight.scales, parameter);
    const int zero = weight.zeros ? weight.zeros[parameter] : weight.shape.center();
    uint32_t words[panel16::unit_words(8)] = {};
    for (int64_t c = 0; c < g.columns_of(group); ++c) {
      const int64_t unit = group * g.group_units + c / panel16::kUnitColumns;
      const int column = static_cast<int>(c % panel16::kUnitColumns);
      if (column == 0) {
        std::memcpy(words, static_cast<const char*>(weight.qweight) + g.unit_offset(panel, unit),
                    static_cast<size_t>(panel16::unit_bytes(g.bits)));
      }
      const uint32_t code = panel16::get_code(words, g.bits, column, r);
      const IntGroup& shape = weight.shape;
      const double value =
          shape.has_floats()
              ? double{f32_from_float8(shape.float_type(), static_cast<uint8_t>(code))}
              : static_cast<double>(code) - zero;
      w[group * g.group_size + c] = scale * value;
    }
  }
}

void run(const W4A16Args& args, const Geometry& g, const double* x, double* w, int64_t n) {
  dequantize_row(args.weight, g, n, w);
  const double bias = args.bias ? load_scalar(args.dtype, args.bias, n) : 0.0;
  for (int64_t m = 0; m < args.m; ++m) {
    double sum = 0;
    for (int64_t k = 0; k < g.k; ++k) sum += x[m * g.k + k] * w[k];
    store_scalar(args.dtype, args.y, m * g.n + n, static_cast<float>(sum + bias));
  }
}

std::unique_ptr<double[]> allocate(int64_t count) {
  return std::unique_ptr<double[]>(new (std::nothrow) double[static_cast<size_t>(count)]);
}

}  // namespace

Status w4a16_gemm(const W4A16Args& args, const Executor& executor) {
  if (args.empty()) return {};
  if (Status status = check_perm(args.perm, args.weight.shape.k); !status.ok()) return status;
  const Geometry g(args.weight.shape);
  const auto x_memory = allocate(args.m * g.k);
  // A row of weights for each panel, so that threads share nothing.
  const auto w_memory = allocate(g.panels * g.k);
  double* const x = x_memory.get();
  double* const w = w_memory.get();
  if (!x || !w) return {StatusCode::out_of_memory, "w4a16_reference: no memory for a copy of x"};
  const ExactSubnormals mode;
  for (int64_t m = 0; m < args.m; ++m) {
    for (int64_t k = 0; k < g.k; ++k) {
      x[m * g.k + k] =
          load_scalar(args.dtype, args.x, m * args.x_stride + (args.perm ? args.perm[k] : k));
    }
  }
  executor.parallel.for_range(g.panels, 1, [&](int64_t begin, int64_t end) {
    const ExactSubnormals thread_mode;
    for (int64_t n = begin * panel16::kRows; n < std::min(g.n, end * panel16::kRows); ++n) {
      run(args, g, x, w + n / panel16::kRows * g.k, n);
    }
  });
  return {};
}

}  // namespace qcore::reference
