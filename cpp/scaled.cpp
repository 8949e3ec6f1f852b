// The public entries of the family of scaled products: checks what every row relies on, then runs
// the selected row of the op that the elements belong to.
#include "qcore/scaled.h"

#include "canonical.h"
#include "qcore/fp8.h"
#include "qcore/int8.h"

namespace qcore {
namespace {

Status check_elements(const ScaledArgs& args) {
  for (const Elements type : {args.x_type, args.w.elements}) {
    if (type != Elements::s8 && !is_float(type)) {
      return not_in("x_type", "s8, e4m3 or e5m2", static_cast<int64_t>(type));
    }
  }
  if (args.integers() != (args.w.elements == Elements::s8)) {
    return Status::invalid("w_type: expected integers if and only if x has them");
  }
  if (args.integers()) return {};
  if (args.w.experts != 1)
    return not_in("experts", "1, because the elements are floats", args.w.experts);
  if (args.x_zero) return Status::invalid("x_zero: expected null, because the elements are floats");
  return {};
}

Status check_quantization(const ScaledArgs& args) {
  if (Status status = check_floats(args.floats, args.m, args.w.k, args.x); !status.ok()) {
    return status;
  }
  if (!args.integers()) {
    if (args.x_scale && args.w.granularity == Granularity::block) {
      return Status::invalid("x_scale: expected null, because scales of blocks come from floats");
    }
    return {};
  }
  if (args.x_zero && (args.symmetric || !args.x_scale)) {
    return Status::invalid(
        "x_zero: expected null, because " +
        std::string(args.symmetric ? "floats are quantized symmetrically" : "x_scale is null"));
  }
  if (args.x_scale && !args.symmetric && !args.x_zero) return missing("x_zero");
  return {};
}

Status check_shape(const ScaledArgs& args) {
  if (args.m < 0) return not_in("m", "0 or more", args.m);
  if (args.w.n < 0) return not_in("n", "0 or more", args.w.n);
  if (args.integers() && (args.w.k < 1 || args.w.k > kInt8MaxK)) {
    return not_in("k", "1 .. " + std::to_string(kInt8MaxK) + ", so that sums fit into 32 bits",
                  args.w.k);
  }
  return args.w.k < 1 ? not_in("k", "1 or more", args.w.k) : Status();
}

Status check(const ScaledArgs& args, const Executor& executor) {
  if (Status status = check_elements(args); !status.ok()) return status;
  if (Status status = check_shape(args); !status.ok()) return status;
  if (Status status = check_float("dtype", args.dtype); !status.ok()) return status;
  if (Status status = check_float("bias_dtype", args.bias_dtype); !status.ok()) return status;
  const bool blocks_allowed = !args.integers();
  if (Status status = check_scales("x_scales", args.x_scales, blocks_allowed); !status.ok()) {
    return status;
  }
  if (Status status = check_scales("w_scales", args.w.granularity, blocks_allowed); !status.ok()) {
    return status;
  }
  if (Status status = check_experts(args.w.experts, args.w.n); !status.ok()) return status;
  if (Status status = check_offsets(args.offsets, args.w.experts, args.m, executor); !status.ok()) {
    return status;
  }
  if (args.empty()) return {};
  if (args.floats.x) {
    if (Status status = check_quantization(args); !status.ok()) return status;
  } else {
    if (args.m > 1 && args.x_stride < 0) return not_in("x_stride", "0 or more", args.x_stride);
    if (!args.x) return missing("x");
    if (!args.x_scale) return missing("x_scale");
    if ((args.x_scales == Granularity::block) != (args.w.granularity == Granularity::block)) {
      return Status::invalid(std::string("x_scales: expected scales of blocks if and only if the "
                                         "weight has them, got ") +
                             name(args.x_scales) + " and " + name(args.w.granularity));
    }
  }
  if (!args.weight) return missing("weight");
  if (!args.w_scale) return missing("w_scale");
  if (!args.y) return missing("y");
  return check_zeros("x_zero", args.x_zero, args.x_scales, args.m, executor);
}

ScaledProblem problem_of(const ScaledArgs& args) {
  return {.m = args.m,
          .weight = args.w,
          .x_type = args.x_type,
          .x_scales = args.x_scales,
          .dtype = args.dtype,
          .floats = args.floats.x != nullptr,
          .aligned =
              (args.floats.x || aligned(args.x, args.x_stride)) && aligned(args.weight, args.w.k)};
}

}  // namespace

Status scaled_gemm(const ScaledArgs& args, const Executor& executor) {
  if (Status status = check(args, executor); !status.ok() || args.empty()) return status;
  if (args.integers()) return run_on<Int8>(problem_of(args), args, executor);
  return run_on<Fp8>(problem_of(args), args, executor);
}

Status scaled_workspace_bytes(const ScaledArgs& args, const Executor& executor, int64_t& bytes) {
  bytes = 0;
  if (Status status = check(args, executor); !status.ok() || args.empty()) return status;
  if (args.integers()) return workspace_on<Int8>(problem_of(args), args, executor, bytes);
  return workspace_on<Fp8>(problem_of(args), args, executor, bytes);
}

Int8Args::operator ScaledArgs() const {
  return {
      .m = m,
      .w = {.n = n, .k = k, .elements = Elements::s8, .granularity = w_scales, .experts = experts},
      .offsets = offsets,
      .x = x,
      .x_stride = x_stride,
      .floats = floats,
      .symmetric = symmetric,
      .weight = weight,
      .x_scale = x_scale,
      .x_scales = x_scales,
      .w_scale = w_scale,
      .x_zero = x_zero,
      .w_sum = w_sum,
      .bias = bias,
      .bias_dtype = bias_dtype,
      .dtype = dtype,
      .y = y,
      .workspace = workspace};
}

Fp8Args::operator ScaledArgs() const {
  return {.m = m,
          .w = {.n = n, .k = k, .elements = elements_of(w_type), .granularity = w_scales},
          .x_type = elements_of(x_type),
          .x = x,
          .x_stride = x_stride,
          .floats = floats,
          .weight = weight,
          .x_scale = x_scale,
          .x_scales = x_scales,
          .w_scale = w_scale,
          .bias = bias,
          .bias_dtype = bias_dtype,
          .dtype = dtype,
          .y = y,
          .workspace = workspace};
}

Status int8_gemm(const Int8Args& args, const Executor& executor) {
  return scaled_gemm(args, executor);
}

Status int8_workspace_bytes(const Int8Args& args, const Executor& executor, int64_t& bytes) {
  return scaled_workspace_bytes(args, executor, bytes);
}

Status fp8_gemm(const Fp8Args& args, const Executor& executor) {
  return scaled_gemm(args, executor);
}

Status fp8_workspace_bytes(const Fp8Args& args, const Executor& executor, int64_t& bytes) {
  return scaled_workspace_bytes(args, executor, bytes);
}

}  // namespace qcore
