// A product with a packed weight of int_group in the memory of the emulated GPU.
#pragma once

#include "emulator.h"
#include "w4a16/hopper_run.h"

namespace qcore::testing {

// One product with its memory on the emulated GPU.
class MarlinProblem {
 public:
  // x lies `misaligned` elements behind a boundary of 256 bytes.
  explicit MarlinProblem(const GemmData& data, int64_t misaligned = 0)
      : data_(data),
        packed_(pack(w4a16::layout, data.weight)),
        x_("x", with_gap(data.x.bytes, misaligned * 2)),
        qweight_("qweight", packed_.qweight),
        scales_("scales", packed_.scales),
        zeros_("zeros", packed_.zeros),
        perm_("perm", data.perm),
        bias_("bias", data.bias.bytes) {
    EXPECT_TRUE(packed_.status.ok()) << packed_.status.message();
    args = data.args(packed_.view, nullptr);
    args.x = x_.data<char>() + misaligned * 2;
    args.weight.qweight = qweight_.data<char>();
    args.weight.scales = scales_.data<char>();
    if (args.weight.zeros) args.weight.zeros = zeros_.data<uint8_t>();
    if (args.perm) args.perm = perm_.data<int32_t>();
    if (args.bias) args.bias = bias_.data<char>();
  }

  std::vector<char> multiply(const tile::Plan& plan, const Schedule& schedule = {}) {
    return run(plan.workspace_bytes(), [&] {
      const Emulator launch(schedule);
      return data_.shape.dtype == DType::f16 ? w4a16::run_gemm<ptx::Half>(args, plan, launch)
                                             : w4a16::run_gemm<ptx::Bfloat>(args, plan, launch);
    });
  }
  std::vector<char> multiply(const w4a16::HopperPlan& plan, const Schedule& schedule = {}) {
    return run(plan.workspace_bytes(), [&] {
      const Emulator launch(schedule);
      return data_.shape.dtype == DType::f16 ? w4a16::run_hopper<ptx::Half>(args, plan, launch)
                                             : w4a16::run_hopper<ptx::Bfloat>(args, plan, launch);
    });
  }
  std::vector<char> multiply_by_reference() {
    return run(0, [&] { return w4a16::run_reference(args, Emulator()); });
  }

  void compare(const std::vector<char>& y, const std::string& how) const {
    expect_exact(data_, y.data(), how);
  }

  W4A16Args args;

 private:
  static std::vector<char> with_gap(const std::vector<char>& bytes, int64_t gap) {
    std::vector<char> moved(static_cast<size_t>(gap), char(0xff));
    moved.insert(moved.end(), bytes.begin(), bytes.end());
    return moved;
  }

  template <class Launch>
  std::vector<char> run(int64_t workspace_bytes, const Launch& launch) {
    const int64_t count = args.m * args.weight.shape.n;
    const simt::Buffer y("y", static_cast<size_t>(count * size_of(args.dtype)),
                         simt::Access::write_once);
    const simt::Buffer workspace("workspace", static_cast<size_t>(workspace_bytes),
                                 simt::Access::read_write);
    args.y = y.data<char>();
    args.workspace = workspace.data<char>();
    const Status status = launch();
    EXPECT_TRUE(status.ok()) << status.message();
    return y.values<char>();
  }

  const GemmData& data_;
  Packed packed_;
  simt::Buffer x_, qweight_, scales_, zeros_, perm_, bias_;
};

}  // namespace qcore::testing
