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

// Offsets [E + 1] of M rows; what they hold is looked at where the host can read them.
inline Status check_offsets(const int32_t* offsets, int64_t experts, int64_t m,
                            const Executor& executor) {
  if (!offsets) {
    return experts == 1 ? Status()
                        : Status::invalid("offsets: expected a pointer, because the weight has " +
                                          std::to_string(experts) + " experts, got null");
  }
  if (executor.device != Device::cpu) return {};
  const auto expected = [&](int64_t at, const std::string& what) {
    return Status::invalid("offsets: expected " + what + " at " + std::to_string(at) + ", got " +
                           std::to_string(offsets[at]));
  };
  if (offsets[0] != 0) return expected(0, "0");
  for (int64_t e = 1; e <= experts; ++e) {
    if (offsets[e] < offsets[e - 1]) {
      return expected(e, std::to_string(offsets[e - 1]) + " or more, as before it,");
    }
  }
  return offsets[experts] == m ? Status()
                               : expected(experts, std::to_string(m) + ", the rows of x,");
}

// The shape of the weight, x, its offsets and y.
template <class Args>
Status check_gemm(const Args& args, const Executor& executor) {
  if (Status status = args.weight.shape.check(); !status.ok()) {
    return {status.code(), "weight." + status.message()};
  }
  if (args.m < 0) return Status::invalid("m: expected 0 or more, got " + std::to_string(args.m));
  if (Status status = check_float("dtype", args.dtype); !status.ok()) return status;
  const int64_t experts = args.weight.shape.experts;
  if (Status status = check_offsets(args.offsets, experts, args.m, executor); !status.ok()) {
    return status;
  }
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
