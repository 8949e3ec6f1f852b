// The public entry of op "int8": checks what every row relies on, then runs the selected row.
#include "qcore/int8.h"

#include "canonical.h"
#include "qcore/formats.h"

namespace qcore {
namespace {

Status check_quantization(const Int8Args& args) {
  if (Status status = check_floats(args); !status.ok()) return status;
  if (args.x_zero && (args.symmetric || !args.x_scale)) {
    return Status::invalid(
        "x_zero: expected null, because " +
        std::string(args.symmetric ? "floats are quantized symmetrically" : "x_scale is null"));
  }
  if (args.x_scale && !args.symmetric && !args.x_zero) return missing("x_zero");
  return {};
}

Status check(const Int8Args& args, const Executor& executor) {
  if (args.m < 0) return not_in("m", "0 or more", args.m);
  if (args.n < 0) return not_in("n", "0 or more", args.n);
  if (args.k < 1 || args.k > kInt8MaxK) {
    return not_in("k", "1 .. " + std::to_string(kInt8MaxK) + ", so that sums fit into 32 bits",
                  args.k);
  }
  if (Status status = check_float("dtype", args.dtype); !status.ok()) return status;
  if (Status status = check_float("bias_dtype", args.bias_dtype); !status.ok()) return status;
  if (Status status = check_scales("x_scales", args.x_scales, false); !status.ok()) return status;
  if (Status status = check_scales("w_scales", args.w_scales, false); !status.ok()) return status;
  if (Status status = check_experts(args.experts, args.n); !status.ok()) return status;
  if (Status status = check_offsets(args.offsets, args.experts, args.m, executor); !status.ok()) {
    return status;
  }
  if (args.empty()) return {};
  if (args.floats.x) {
    if (Status status = check_quantization(args); !status.ok()) return status;
  } else {
    if (args.m > 1 && args.x_stride < 0) return not_in("x_stride", "0 or more", args.x_stride);
    if (!args.x) return missing("x");
    if (!args.x_scale) return missing("x_scale");
  }
  if (!args.weight) return missing("weight");
  if (!args.w_scale) return missing("w_scale");
  if (!args.y) return missing("y");
  return check_zeros("x_zero", args.x_zero, args.x_scales, args.m, executor);
}

Int8Problem problem_of(const Int8Args& args) {
  return {
      .m = args.m,
      .n = args.n,
      .k = args.k,
      .dtype = args.dtype,
      .floats = args.floats.x != nullptr,
      .aligned = (args.floats.x || aligned(args.x, args.x_stride)) && aligned(args.weight, args.k),
      .experts = args.experts};
}

}  // namespace

Status int8_gemm(const Int8Args& args, const Executor& executor) {
  if (Status status = check(args, executor); !status.ok() || args.empty()) return status;
  return run_on<Int8>(problem_of(args), args, executor);
}

Status int8_workspace_bytes(const Int8Args& args, const Executor& executor, int64_t& bytes) {
  bytes = 0;
  if (Status status = check(args, executor); !status.ok() || args.empty()) return status;
  return workspace_on<Int8>(problem_of(args), args, executor, bytes);
}

}  // namespace qcore
