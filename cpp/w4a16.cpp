// The public entry of op "w4a16": checks what every row relies on, then runs the selected row.
#include <string>

#include "qcore/qcore.h"
#include "registry.h"

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

// The row for checked arguments; null, with the reason in `status`, if there is none.
const KernelRow* row_for(const W4A16Args& args, const Executor& executor, Status& status) {
  status = check(args);
  if (!status.ok()) return nullptr;
  const Layout* layout = find_layout(args.weight.layout);
  if (!layout) {
    status =
        Status::invalid("weight.layout: there is no layout " + std::to_string(args.weight.layout));
    return nullptr;
  }
  if (layout->device != executor.device) {
    status = Status::invalid(std::string("weight.layout: ") + layout->name + " is read on " +
                             name(layout->device) + ", the call is on " + name(executor.device));
    return nullptr;
  }
  Problem problem{.device = executor.device,
                  .dtype = args.dtype,
                  .m = args.m,
                  .weight = args.weight.shape,
                  .layout = args.weight.layout};
#if QCORE_HAVE_CUDA
  if (executor.device == Device::cuda) {
    status = cuda_sm(executor.index, problem.sm);
    if (!status.ok()) return nullptr;
  }
#endif
  Selection selection = select("w4a16", problem);
  status = std::move(selection.status);
  return selection.row;
}

bool is_empty(const W4A16Args& args) {
  return args.m == 0 || args.weight.shape.n == 0;
}

}  // namespace

Status w4a16_gemm(const W4A16Args& args, const Executor& executor) {
  Status status;
  const KernelRow* row = row_for(args, executor, status);
  if (!row || is_empty(args)) return status;
  return row->gemm(args, executor);
}

Status w4a16_workspace_bytes(const W4A16Args& args, const Executor& executor, int64_t& bytes) {
  bytes = 0;
  Status status;
  const KernelRow* row = row_for(args, executor, status);
  if (!row || is_empty(args) || !row->workspace_bytes) return status;
  return row->workspace_bytes(args, executor, bytes);
}

}  // namespace qcore
