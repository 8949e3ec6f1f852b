// The public entry of op "fp8": checks what every row relies on, then runs the selected row.
#include "qcore/fp8.h"

#include "canonical.h"

namespace qcore {
namespace {

Status check_quantization(const Fp8Args& args) {
  if (Status status = check_floats(args); !status.ok()) return status;
  if (args.x_scale && args.w_scales == Scales::block) {
    return Status::invalid("x_scale: expected null, because scales of blocks come from floats");
  }
  return {};
}

Status check(const Fp8Args& args) {
  if (args.m < 0) return not_in("m", "0 or more", args.m);
  if (args.n < 0) return not_in("n", "0 or more", args.n);
  if (args.k < 1) return not_in("k", "1 or more", args.k);
  if (Status status = check_float("dtype", args.dtype); !status.ok()) return status;
  if (Status status = check_float("bias_dtype", args.bias_dtype); !status.ok()) return status;
  if (Status status = check_scales("x_scales", args.x_scales, true); !status.ok()) return status;
  if (Status status = check_scales("w_scales", args.w_scales, true); !status.ok()) return status;
  if (args.empty()) return {};
  if (args.floats.x) {
    if (Status status = check_quantization(args); !status.ok()) return status;
  } else {
    if (args.m > 1 && args.x_stride < 0) return not_in("x_stride", "0 or more", args.x_stride);
    if (!args.x) return missing("x");
    if (!args.x_scale) return missing("x_scale");
    if ((args.x_scales == Scales::block) != (args.w_scales == Scales::block)) {
      return Status::invalid(std::string("x_scales: expected scales of blocks if and only if the "
                                         "weight has them, got ") +
                             name(args.x_scales) + " and " + name(args.w_scales));
    }
  }
  if (!args.weight) return missing("weight");
  if (!args.w_scale) return missing("w_scale");
  if (!args.y) return missing("y");
  return {};
}

Fp8Problem problem_of(const Fp8Args& args) {
  return {
      .m = args.m,
      .n = args.n,
      .k = args.k,
      .x_type = args.x_type,
      .w_type = args.w_type,
      .x_scales = args.x_scales,
      .w_scales = args.w_scales,
      .dtype = args.dtype,
      .floats = args.floats.x != nullptr,
      .aligned = (args.floats.x || aligned(args.x, args.x_stride)) && aligned(args.weight, args.k)};
}

}  // namespace

Status fp8_gemm(const Fp8Args& args, const Executor& executor) {
  if (Status status = check(args); !status.ok() || args.empty()) return status;
  return run_on<Fp8>(problem_of(args), args, executor);
}

Status fp8_workspace_bytes(const Fp8Args& args, const Executor& executor, int64_t& bytes) {
  bytes = 0;
  if (Status status = check(args); !status.ok() || args.empty()) return status;
  return workspace_on<Fp8>(problem_of(args), args, executor, bytes);
}

}  // namespace qcore
