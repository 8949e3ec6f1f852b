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

  ScaledArgs args() const {
    const W8A8Case& c = d.shape;
    ScaledArgs args;
    args.m = c.m;
    args.w = {.n = c.n,
              .k = c.k,
              .elements = c.integer ? Elements::s8 : elements_of(c.w_type),
              .granularity = c.w_scales};
    args.x_type = c.integer ? Elements::s8 : elements_of(c.x_type);
    if (c.floats) {
      args.floats = {.m = c.m,
                     .k = c.k,
                     .dtype = c.x_dtype,
                     .x = floats_.data<char>(),
                     .stride = d.stride(),
                     .norm_weight = c.norm ? norm_weight_.data<char>() : nullptr,
                     .norm_dtype = c.x_dtype};
    } else {
      args.x = x_.data<uint8_t>();
      args.x_stride = d.stride();
    }
    args.weight = w_.data<uint8_t>();
    args.x_scale = c.floats && !c.given ? nullptr : x_scale_.data<float>();
    args.x_scales = c.x_scales;
    args.w_scale = w_scale_.data<float>();
    args.bias = c.bias ? bias_.data<char>() : nullptr;
    args.bias_dtype = c.bias_dtype;
    args.dtype = c.dtype;
    if (!c.integer) return args;
    args.symmetric = !c.zero;
    if (c.zero && args.x_scale) args.x_zero = x_zero_.data<int32_t>();
    if (c.w_sum) args.w_sum = w_sum_.data<int32_t>();
    return args;
  }

  // run(args) with y and workspace of so many bytes.
  template <class Run>
  std::vector<char> multiply(ScaledArgs args, int64_t workspace_bytes, const Run& run) const {
    const simt::Buffer y("y", static_cast<size_t>(args.m * args.w.n * size_of(args.dtype)),
                         simt::Access::write_once);
    const simt::Buffer workspace("workspace", static_cast<size_t>(workspace_bytes),
                                 simt::Access::write_once);
    args.y = y.data<char>();
    args.workspace = workspace.data<char>();
    const Status status = run(args);
    EXPECT_TRUE(status.ok()) << status.message();
    return y.values<char>();
  }
  std::vector<char> multiply(const ScaledArgs& args, const scaled::Plan& plan,
                             const Schedule& schedule = {}) const {
    return multiply(args, scaled::workspace_of(args, plan).bytes,
                    [&](const ScaledArgs& with_memory) {
                      return scaled::run_gemm(with_memory, plan, Emulator(schedule));
                    });
  }
  std::vector<char> multiply_by_reference(const ScaledArgs& args) const {
    return multiply(args, scaled::reference_workspace_of(args).bytes,
                    [&](const ScaledArgs& with_memory) {
                      return scaled::run_reference(with_memory, Emulator());
                    });
  }

 private:
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
    args.given_scale = problem.args().x_scale;
    args.q = codes.data<std::remove_reference_t<decltype(*args.q)>>();
    args.scale = scale.data<float>();
    if constexpr (requires { args.zero; }) {
      args.symmetric = !c.zero;
      args.given_zero = problem.args().x_zero;
      if (c.zero) args.zero = zero.data<int32_t>();
    }
    EXPECT_TRUE(quantize::run(args, Emulator()).ok());
  };
  if (c.integer) {
    run(QuantizeInt8Args{.x = problem.args().floats});
  } else {
    run(QuantizeFp8Args{.x = problem.args().floats, .type = c.x_type});
  }
  q.x = codes.values<uint8_t>();
  q.x_scale = scale.values<float>();
  q.x_zero = zero.values<int32_t>();
  return q;
}

}  // namespace qcore::testing
