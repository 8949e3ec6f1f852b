// Checks that several public functions share, and that every gemm makes.
#pragma once

#include <string>

#include "qcore/status.h"
#include "qcore/types.h"
#include "registry.h"

namespace qcore {

inline Status missing(const char* argument) {
  return Status::invalid(std::string(argument) + ": expected a pointer, got null");
}

inline Status check_float(const char* argument, DType dtype) {
  if (dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16) return {};
  return Status::invalid(std::string(argument) + ": expected f32, f16 or bf16, got " +
                         std::to_string(static_cast<int>(dtype)));
}

// The shape of the weight, x and y.
template <class Args>
Status check_gemm(const Args& args) {
  if (Status status = args.weight.shape.check(); !status.ok()) {
    return {status.code(), "weight." + status.message()};
  }
  if (args.m < 0) return Status::invalid("m: expected 0 or more, got " + std::to_string(args.m));
  if (Status status = check_float("dtype", args.dtype); !status.ok()) return status;
  if (args.empty()) return {};
  if (args.m > 1 && args.x_stride < 0) {
    return Status::invalid("x_stride: expected 0 or more, got " + std::to_string(args.x_stride));
  }
  if (!args.x) return missing("x");
  if (!args.y) return missing("y");
  return {};
}

// The row for checked arguments, an error otherwise.
template <class Op>
Choice<Row<Op>> row_for(const typename Op::Args& args, const Executor& executor) {
  int sm = 0;
  if (Status status = check_place(args.weight.layout, executor, sm); !status.ok()) {
    return {nullptr, std::move(status), {}};
  }
  typename Op::Problem problem{.device = executor.device,
                               .dtype = args.dtype,
                               .m = args.m,
                               .weight = args.weight.shape,
                               .layout = args.weight.layout,
                               .sm = sm};
  if constexpr (requires { args.batch_invariant; }) problem.batch_invariant = args.batch_invariant;
  return select<Op>(problem);
}

}  // namespace qcore
