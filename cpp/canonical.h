// Checks that the ops on canonical tensors share: quantize_int8, quantize_fp8, int8 and fp8.
#pragma once

#include <string>

#include "checks.h"
#include "qcore/quantize.h"

namespace qcore {

inline Status not_in(const char* argument, const std::string& expected, int64_t got) {
  return Status::invalid(std::string(argument) + ": expected " + expected + ", got " +
                         std::to_string(got));
}

// Whether all rows start at multiples of 16 bytes; a null pointer does.
inline bool aligned(const void* data, int64_t row_bytes) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && row_bytes % 16 == 0;
}

inline bool aligned(const FloatRows& x) {
  return aligned(x.x, x.stride * size_of(x.dtype)) && aligned(x.norm_weight, 0);
}

Status check_scales(const char* argument, Granularity scales, bool blocks_allowed);
// M and K are checked by the caller if there are no rows.
Status check_rows(const FloatRows& x);
// Zero points, where the host can read them: [1] or [M] of [-128, 127].
Status check_zeros(const char* argument, const int32_t* zeros, Granularity scales, int64_t m,
                   const Executor& executor);

// Floats [M, K] that a product quantizes itself, instead of `other`.
inline Status check_floats(const FloatRows& x, int64_t m, int64_t k, const void* other) {
  if (Status status = check_rows(x); !status.ok()) {
    return {status.code(), "floats." + status.message().substr(2)};
  }
  if (x.m != m) return not_in("floats.m", std::to_string(m) + " like m", x.m);
  if (x.k != k) return not_in("floats.k", std::to_string(k) + " like k", x.k);
  if (other) return Status::invalid("x: expected null, because floats are given");
  return {};
}

template <class Op>
Choice<Row<Op>> select_on(typename Op::Problem problem, const Executor& executor) {
  problem.device = executor.device;
  if (Status status = check_device(executor, problem.sm); !status.ok()) {
    return {nullptr, std::move(status), {}};
  }
  return select<Op>(problem);
}

// Runs checked arguments.
template <class Op>
Status run_on(const typename Op::Problem& problem, const typename Op::Args& args,
              const Executor& executor) {
  const auto choice = select_on<Op>(problem, executor);
  return choice.row ? choice.row->run(args, executor) : choice.status;
}

template <class Op>
Status workspace_on(const typename Op::Problem& problem, const typename Op::Args& args,
                    const Executor& executor, int64_t& bytes) {
  const auto choice = select_on<Op>(problem, executor);
  if (!choice.row || !choice.row->workspace_bytes) return choice.status;
  return choice.row->workspace_bytes(args, executor, bytes);
}

}  // namespace qcore
