// The public entry of op "w4a16": checks what every row relies on, then runs the selected row.
#include <string>

#include "qcore/qcore.h"

namespace qcore {
namespace {

Status missing(const char* argument) {
  return Status::invalid(std::string(argument) + ": expected a pointer, got null");
}

Status check(const W4A16Args& args) {
  const PackedIntGroup& weight = args.weight;
  if (Status status = weight.shape.check(); !status.ok()) {
    return {status.code(), "weight." + status.message()};
  }
  if (args.m < 0) return Status::invalid("m: expected 0 or more, got " + std::to_string(args.m));
  if (args.dtype != DType::f32 && args.dtype != DType::f16 && args.dtype != DType::bf16) {
    return Status::invalid("dtype: expected f32, f16 or bf16, got " +
                           std::to_string(static_cast<int>(args.dtype)));
  }
  if (args.m == 0 || weight.shape.n == 0) return {};
  if (args.m > 1 && args.x_stride < 0) {
    return Status::invalid("x_stride: expected 0 or more, got " + std::to_string(args.x_stride));
  }
  if (!args.x) return missing("x");
  if (!args.y) return missing("y");
  if (!weight.qweight) return missing("weight.qweight");
  if (!weight.scales) return missing("weight.scales");
  if (weight.shape.has_zeros && !weight.zeros) return missing("weight.zeros");
  if (!weight.shape.has_zeros && weight.zeros) {
    return Status::invalid("weight.zeros: expected null, because the weight is symmetric");
  }
  return {};
}

}  // namespace

Status w4a16_gemm(const W4A16Args& args, const Parallel& parallel) {
  if (Status status = check(args); !status.ok()) return status;
  const KernelRow* reader = row_of_layout("w4a16", args.weight.layout);
  if (!reader) {
    return Status::invalid("weight.layout: no w4a16 kernel reads layout " +
                           std::to_string(args.weight.layout));
  }
  const Problem problem{.device = reader->device,
                        .dtype = args.dtype,
                        .m = args.m,
                        .weight = args.weight.shape,
                        .layout = args.weight.layout};
  const Selection selection = select("w4a16", problem);
  if (!selection.row) return selection.status;
  if (args.m == 0 || args.weight.shape.n == 0) return {};
  return selection.row->gemm(args, parallel);
}

}  // namespace qcore
