// The public entries of ops "quantize_int8" and "quantize_fp8": check what every row relies on,
// then run the selected row.
#include "qcore/quantize.h"

#include "canonical.h"

namespace qcore {
namespace {

QuantizeProblem problem_of(const FloatRows& x, Granularity granularity, bool given, const void* q) {
  return {.m = x.m,
          .k = x.k,
          .dtype = x.dtype,
          .granularity = granularity,
          .given_scale = given,
          .norm = x.norm_weight != nullptr,
          .aligned = aligned(x) && aligned(q, x.k)};
}

Status check(const QuantizeInt8Args& args, const Executor& executor) {
  if (Status status = check_scales("granularity", args.granularity, false); !status.ok()) {
    return status;
  }
  if (Status status = check_rows(args.x); !status.ok() || args.empty()) return status;
  if (!args.q) return missing("q");
  if (args.given_zero && (args.symmetric || !args.given_scale)) {
    return Status::invalid(
        "given_zero: expected null, because " +
        std::string(args.symmetric ? "zero points are 0 (symmetric)" : "given_scale is null"));
  }
  if (args.given_scale && !args.symmetric && !args.given_zero) return missing("given_zero");
  if (args.symmetric && args.zero) {
    return Status::invalid("zero: expected null, because zero points are 0 (symmetric)");
  }
  return check_zeros("given_zero", args.given_zero, args.granularity, args.x.m, executor);
}

Status check(const QuantizeFp8Args& args, const Executor&) {
  if (Status status = check_scales("granularity", args.granularity, true); !status.ok()) {
    return status;
  }
  if (Status status = check_rows(args.x); !status.ok() || args.empty()) return status;
  if (!args.q) return missing("q");
  if (args.given_scale && args.granularity == Granularity::block) {
    return Status::invalid("given_scale: expected null, because scales of blocks come from x");
  }
  return {};
}

template <class Op>
Status run(const typename Op::Args& args, const Executor& executor) {
  if (Status status = check(args, executor); !status.ok() || args.empty()) return status;
  return run_on<Op>(problem_of(args.x, args.granularity, args.given_scale, args.q), args, executor);
}

template <class Op>
Status workspace(const typename Op::Args& args, const Executor& executor, int64_t& bytes) {
  bytes = 0;
  if (Status status = check(args, executor); !status.ok() || args.empty()) return status;
  return workspace_on<Op>(problem_of(args.x, args.granularity, args.given_scale, args.q), args,
                          executor, bytes);
}

}  // namespace

Status check_scales(const char* argument, Granularity scales, bool blocks_allowed) {
  if (scales == Granularity::tensor || scales == Granularity::row) return {};
  if (scales == Granularity::block && blocks_allowed) return {};
  return Status::invalid(std::string(argument) + ": expected tensor" +
                         (blocks_allowed ? ", row or block" : " or row") + ", got " + name(scales));
}

Status check_rows(const FloatRows& x) {
  if (x.m < 0) return not_in("x.m", "0 or more", x.m);
  if (x.k < 1) return not_in("x.k", "1 or more", x.k);
  if (Status status = check_float("x.dtype", x.dtype); !status.ok()) return status;
  if (Status status = check_float("x.norm_dtype", x.norm_dtype); !status.ok()) return status;
  if (x.m == 0) return {};
  if (x.m > 1 && x.stride < 0) return not_in("x.stride", "0 or more", x.stride);
  return x.x ? Status() : missing("x.x");
}

Status check_zeros(const char* argument, const int32_t* zeros, Granularity scales, int64_t m,
                   const Executor& executor) {
  if (!zeros || executor.device != Device::cpu) return {};
  for (int64_t i = 0; i < (scales == Granularity::tensor ? 1 : m); ++i) {
    if (zeros[i] < -128 || zeros[i] > 127) return not_in(argument, "-128 .. 127", zeros[i]);
  }
  return {};
}

Status quantize_int8(const QuantizeInt8Args& args, const Executor& executor) {
  return run<QuantizeInt8>(args, executor);
}

Status quantize_fp8(const QuantizeFp8Args& args, const Executor& executor) {
  return run<QuantizeFp8>(args, executor);
}

Status quantize_int8_workspace_bytes(const QuantizeInt8Args& args, const Executor& executor,
                                     int64_t& bytes) {
  return workspace<QuantizeInt8>(args, executor, bytes);
}

Status quantize_fp8_workspace_bytes(const QuantizeFp8Args& args, const Executor& executor,
                                    int64_t& bytes) {
  return workspace<QuantizeFp8>(args, executor, bytes);
}

}  // namespace qcore
