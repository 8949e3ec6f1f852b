// The public entries of ops "fake_quantize" and "fake_quantize_backward": check what every row
// relies on, then run the selected row.
#include "qcore/fake_quantize.h"

#include "canonical.h"

namespace qcore {
namespace {

FakeQuantizeProblem problem_of(const FloatRows& w) {
  return {.n = w.m, .k = w.k, .dtype = w.dtype};
}

Status check(const TiledElements& grid) {
  if (grid.rows < 1) return not_in("grid.rows", "1 or more", grid.rows);
  if (grid.columns < 1) return not_in("grid.columns", "1 or more", grid.columns);
  if (grid.numbers && (grid.count < 1 || grid.count > kMostNumbers)) {
    return not_in("grid.count", "1 .. " + std::to_string(kMostNumbers), grid.count);
  }
  if (grid.zero_points && (grid.numbers || !takes_zeros(grid.elements))) {
    return Status::invalid(
        "grid.zero_points: expected false, because only unsigned integers have them");
  }
  return {};
}

Status check(const FakeQuantizeArgs& args) {
  if (Status status = check(args.grid); !status.ok()) return status;
  if (Status status = check_rows(args.w); !status.ok() || args.empty()) return status;
  if (args.w.norm_weight) return Status::invalid("w.norm_weight: expected null");
  if (!args.y) return missing("y");
  const bool zeros = args.grid.zero_points && args.given_scale;
  if (zeros && !args.given_zero) return missing("given_zero");
  if (!zeros && args.given_zero) {
    return Status::invalid(std::string("given_zero: expected null, because ") +
                           (args.given_scale ? "there are no zero points" : "given_scale is null"));
  }
  if (!args.grid.zero_points && args.zero) {
    return Status::invalid("zero: expected null, because there are no zero points");
  }
  return {};
}

Status check(const FakeQuantizeBackwardArgs& args) {
  if (Status status = check(args.grid); !status.ok()) return status;
  if (Status status = check_rows(args.w); !status.ok() || args.empty()) return status;
  if (args.dy.m != args.w.m)
    return not_in("dy.m", std::to_string(args.w.m) + " like w.m", args.dy.m);
  if (args.dy.k != args.w.k)
    return not_in("dy.k", std::to_string(args.w.k) + " like w.k", args.dy.k);
  if (Status status = check_float("dy.dtype", args.dy.dtype); !status.ok()) return status;
  if (!args.dy.x) return missing("dy.x");
  if (!args.scale) return missing("scale");
  if (!args.dw) return missing("dw");
  if (args.grid.zero_points && !args.zero) return missing("zero");
  if (!args.grid.zero_points && (args.zero || args.dzero)) {
    return Status::invalid("zero, dzero: expected null, because there are no zero points");
  }
  return {};
}

template <class Op>
Status run(const typename Op::Args& args, const Executor& executor) {
  if (Status status = check(args); !status.ok() || args.empty()) return status;
  return run_on<Op>(problem_of(args.w), args, executor);
}

}  // namespace

Status fake_quantize(const FakeQuantizeArgs& args, const Executor& executor) {
  return run<FakeQuantize>(args, executor);
}

Status fake_quantize_backward(const FakeQuantizeBackwardArgs& args, const Executor& executor) {
  return run<FakeQuantizeBackward>(args, executor);
}

}  // namespace qcore
