// Packs a small weight and multiplies with it through the installed public headers only.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "qcore/qcore.h"

int main() {
  constexpr int64_t n = 48, k = 256, group = 128;
  qcore::ScaledWeight shape;
  shape.n = n;
  shape.k = k;
  shape.group_size = group;
  shape.elements = qcore::Elements::u4;

  std::vector<uint8_t> codes(n * k);
  std::vector<float> scales(n * shape.groups()), x(k), y(n);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i * 7 % 16);
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = 0.01f * static_cast<float>(i % 5 + 1);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 3) - 1.0f;

  qcore::W4A16::Problem problem;
  problem.m = 1;
  problem.weight = shape;
  const auto choice = qcore::select<qcore::W4A16>(problem);
  if (!choice.row) return std::printf("select: %s\n", choice.status.message().c_str()), 1;
  const auto sizes = choice.row->weight_layout().packed_sizes(shape);
  std::vector<uint8_t> qweight(sizes.qweight_bytes);
  std::vector<float> packed_scales(sizes.scales);
  auto status = qcore::pack(choice.row->weight_layout(), {shape, {codes.data()}, scales.data()},
                            {qweight.data(), packed_scales.data()}, {});
  if (!status.ok()) return std::printf("pack: %s\n", status.message().c_str()), 1;

  qcore::W4A16Args args;
  args.m = 1;
  args.x = x.data();
  args.x_stride = k;
  args.weight = {shape, choice.row->layout->number, qweight.data(), packed_scales.data(), nullptr};
  args.y = y.data();
  status = qcore::w4a16_gemm(args, {});
  if (!status.ok()) return std::printf("gemm: %s\n", status.message().c_str()), 1;

  for (int64_t row = 0; row < n; ++row) {
    double want = 0;
    for (int64_t col = 0; col < k; ++col) {
      const double scale = scales[row * shape.groups() + col / group];
      want += scale * (codes[row * k + col] - qcore::center_of(shape.elements)) * x[col];
    }
    if (std::abs(want - y[row]) > 1e-4 * (1 + std::abs(want))) {
      return std::printf("row %d: expected %g, got %g\n", static_cast<int>(row), want, y[row]), 1;
    }
  }
  std::printf("qcore %s, %s: ok\n", qcore::version(), choice.row->name);
}
