// A product of 8-bit matrices in the memory of the emulated GPU.
#pragma once

#include "emulator.h"
#include "scaled/run.h"
#include "scaled_cases.h"

namespace qcore::testing {

// The data in the memory of the emulated GPU.
class W8A8Problem {
 public:
  explicit W8A8Problem(const W8A8Data& data)
      : d(data),
        x_("x", d.x),
        w_("weight", d.w),
        floats_("floats", d.floats.bytes),
        norm_weight_("norm_weight", d.norm_weight.bytes),
        bias_("bias", d.bias.bytes),
        x_scale_("x_scale", d.x_scale),
        w_scale_("w_scale", d.w_scale),
        x_zero_("x_zero", d.x_zero),
        w_sum_("w_sum", d.w_sum) {}

  Int8Args int8() const {
    Int8Args args;
    set(args);
    args.symmetric = !d.shape.zero;
    if (d.shape.zero && args.x_scale) args.x_zero = x_zero_.data<int32_t>();
    if (d.shape.w_sum) args.w_sum = w_sum_.data<int32_t>();
    return args;
  }
  Fp8Args fp8() const {
    Fp8Args args;
    set(args);
    args.x_type = d.shape.x_type;
    args.w_type = d.shape.w_type;
    return args;
  }

  // run(args) with y and workspace of so many bytes.
  template <class Args, class Run>
  std::vector<char> multiply(Args args, int64_t workspace_bytes, const Run& run) const {
    const simt::Buffer y("y", static_cast<size_t>(args.m * args.n * size_of(args.dtype)),
                         simt::Access::write_once);
    const simt::Buffer workspace("workspace", static_cast<size_t>(workspace_bytes),
                                 simt::Access::write_once);
    args.y = y.data<char>();
    args.workspace = workspace.data<char>();
    const Status status = run(args);
    EXPECT_TRUE(status.ok()) << status.message();
    return y.values<char>();
  }
  template <class Args>
  std::vector<char> multiply(const Args& args, const scaled::Plan& plan,
                             const Schedule& schedule = {}) const {
    return multiply(args, scaled::workspace_of(args, plan).bytes, [&](const Args& with_memory) {
      return scaled::run_gemm(with_memory, plan, Emulator(schedule));
    });
  }
  template <class Args>
  std::vector<char> multiply_by_reference(const Args& args) const {
    return multiply(args, scaled::reference_workspace_of(args).bytes, [&](const Args& with_memory) {
      return scaled::run_reference(with_memory, Emulator());
    });
  }

 private:
  template <class Args>
  void set(Args& args) const {
    const W8A8Case& c = d.shape;
    args.m = c.m;
    args.n = c.n;
    args.k = c.k;
    if (c.floats) {
      args.floats = {.m = c.m,
                     .k = c.k,
                     .dtype = c.x_dtype,
                     .x = floats_.data<char>(),
                     .stride = d.stride(),
                     .norm_weight = c.norm ? norm_weight_.data<char>() : nullptr,
                     .norm_dtype = c.x_dtype};
    } else {
      args.x = x_.data<std::remove_cvref_t<decltype(*args.x)>>();
      args.x_stride = d.stride();
    }
    args.weight = w_.data<std::remove_cvref_t<decltype(*args.weight)>>();
    args.x_scale = c.floats && !c.given ? nullptr : x_scale_.data<float>();
    args.x_scales = c.x_scales;
    args.w_scale = w_scale_.data<float>();
    args.w_scales = c.w_scales;
    args.bias = c.bias ? bias_.data<char>() : nullptr;
    args.bias_dtype = c.bias_dtype;
    args.dtype = c.dtype;
  }

  const W8A8Data& d;
  simt::Buffer x_, w_, floats_, norm_weight_, bias_, x_scale_, w_scale_, x_zero_, w_sum_;
};

// Quantizes the floats by the kernel that only does that; what the product then reads.
inline W8A8Data quantized(const W8A8Data& d) {
  const W8A8Case& c = d.shape;
  W8A8Data q = d;
  q.shape.floats = q.shape.given = q.shape.norm = false;
  q.shape.gap = 0;
  const W8A8Problem problem(d);
  const simt::Buffer codes("q", static_cast<size_t>(c.m * c.k), simt::Access::write_once);
  const size_t scales = static_cast<size_t>(scale_count(c.x_scales, c.m, c.k, false));
  const simt::Buffer scale("scale", scales * 4, simt::Access::write_once);
  const simt::Buffer zero("zero", scales * 4, simt::Access::write_once);
  const auto run = [&](auto args) {
    args.granularity = c.x_scales;
    args.given_scale = problem.int8().x_scale;
    args.q = codes.data<std::remove_reference_t<decltype(*args.q)>>();
    args.scale = scale.data<float>();
    if constexpr (requires { args.zero; }) {
      args.symmetric = !c.zero;
      args.given_zero = problem.int8().x_zero;
      if (c.zero) args.zero = zero.data<int32_t>();
    }
    EXPECT_TRUE(quantize::run(args, Emulator()).ok());
  };
  if (c.integer) {
    run(QuantizeInt8Args{.x = problem.int8().floats});
  } else {
    run(QuantizeFp8Args{.x = problem.int8().floats, .type = c.x_type});
  }
  q.x = codes.values<uint8_t>();
  q.x_scale = scale.values<float>();
  q.x_zero = zero.values<int32_t>();
  return q;
}

}  // namespace qcore::testing
