// The row that takes every problem on every machine: panel16 decoded with get_code(), sums in
// double.
#include <algorithm>
#include <cstring>

#include "cpu/aligned.h"
#include "cpu/layouts/panel16.h"
#include "cpu/schedule.h"
#include "cpu/w4a16/kernels.h"
#include "numerics/float16.h"
#include "numerics/float8.h"

namespace qcore::reference {
namespace {

using panel16::Geometry;

constexpr int64_t kBlockRows = 128;
constexpr int64_t kGrain = 1 << 12;  // of multiply-adds

// What a unit holds of row n, dequantized; the product of a scale and a code is exact in double.
void dequantize_unit(const PackedScaled& weight, const Geometry& g, int64_t n, int64_t group,
                     int64_t unit, int columns, double* w) {
  const ScaledWeight& shape = weight.shape;
  const int64_t panel = n / panel16::kRows;
  const int r = static_cast<int>(n % panel16::kRows);
  const int64_t parameter = g.group_offset(panel, group) + r;
  const double scale = load_scalar(shape.scale_dtype, weight.scales, parameter);
  const int zero = weight.zeros ? weight.zeros[parameter] : center_of(shape.elements);
  uint32_t words[panel16::unit_words(8)] = {};
  std::memcpy(words, static_cast<const char*>(weight.qweight) + g.unit_offset(panel, unit),
              static_cast<size_t>(panel16::unit_bytes(g.bits)));
  for (int c = 0; c < columns; ++c) {
    const uint32_t code = panel16::get_code(words, g.bits, c, r);
    const double value =
        is_float(shape.elements)
            ? double{f32_from_float8(float8_of(shape.elements), static_cast<uint8_t>(code))}
            : static_cast<double>(code) - zero;
    w[c] = scale * value;
  }
}

// Column n of y for a block of rows; x are their activations [rows, K].
void run(const W4A16Args& args, const Geometry& g, const RowBlock& rows, const double* x,
         int64_t n) {
  double sums[kBlockRows] = {};
  for (int64_t group = 0; group < g.groups; ++group) {
    for (int64_t c = 0; c < g.columns_of(group); c += panel16::kUnitColumns) {
      const int64_t unit = group * g.group_units + c / panel16::kUnitColumns;
      const int columns =
          static_cast<int>(std::min<int64_t>(panel16::kUnitColumns, g.columns_of(group) - c));
      double w[panel16::kUnitColumns];
      dequantize_unit(args.weight, g, n, group, unit, columns, w);
      for (int64_t m = 0; m < rows.rows; ++m) {
        const double* at = x + m * g.k + group * g.group_size + c;
        for (int i = 0; i < columns; ++i) sums[m] += at[i] * w[i];
      }
    }
  }
  const double bias = args.bias ? load_scalar(args.dtype, args.bias, n) : 0.0;
  for (int64_t m = 0; m < rows.rows; ++m) {
    store_scalar(args.dtype, args.y, (rows.first + m) * g.n + n,
                 static_cast<float>(sums[m] + bias));
  }
}

void copy_row(const W4A16Args& args, int64_t m, double* x) {
  for (int64_t k = 0; k < args.weight.shape.k; ++k) {
    x[k] = load_scalar(args.dtype, args.x, m * args.x_stride + (args.perm ? args.perm[k] : k));
  }
}

}  // namespace

Status w4a16_gemm(const W4A16Args& args, const Executor& executor) {
  if (args.empty()) return {};
  if (Status status = check_perms(args); !status.ok()) return status;
  const Geometry g(args.weight.shape);
  const Schedule schedule(args.m, args.weight.shape.experts, args.offsets, {.most = kBlockRows},
                          args.m * g.k, [&](int64_t rows) { return rows * g.k; });
  const AlignedArray<double> x(schedule.copy_size());
  if (!x.data()) {
    return {StatusCode::out_of_memory, "w4a16_reference: no memory for a copy of x"};
  }
  const Parallel& parallel = executor.parallel;
  schedule.for_each_pass([&](const Pass& pass) {
    const auto copying = [&](const RowBlock& rows) { return Work{rows.rows, g.k}; };
    pass.share(parallel, kGrain, copying, [&](const RowBlock& rows, int64_t begin, int64_t end) {
      const W4A16Args of_expert = args_of(args, rows.expert);
      for (; begin < end; ++begin) {
        copy_row(of_expert, rows.first + begin, x.data() + rows.copy + begin * g.k);
      }
    });
    const auto products = [&](const RowBlock& rows) { return Work{g.n, g.k * rows.rows}; };
    pass.share(parallel, kGrain, products, [&](const RowBlock& rows, int64_t begin, int64_t end) {
      const W4A16Args of_expert = args_of(args, rows.expert);
      for (; begin < end; ++begin) run(of_expert, g, rows, x.data() + rows.copy, begin);
    });
  });
  return {};
}

}  // namespace qcore::reference
