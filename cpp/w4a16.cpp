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
  if (args.empty()) return {};
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
const Row<W4A16>* row_for(const W4A16Args& args, const Executor& executor, Status& status) {
  int sm = 0;
  status = check(args);
  if (status.ok()) status = check_place(args.weight.layout, executor, sm);
  if (!status.ok()) return nullptr;
  auto choice = select<W4A16>({.device = executor.device,
                               .dtype = args.dtype,
                               .m = args.m,
                               .weight = args.weight.shape,
                               .layout = args.weight.layout,
                               .sm = sm});
  status = std::move(choice.status);
  return choice.row;
}

}  // namespace

Status w4a16_gemm(const W4A16Args& args, const Executor& executor) {
  Status status;
  const Row<W4A16>* row = row_for(args, executor, status);
  if (!row || args.empty()) return status;
  return row->run(args, executor);
}

Status w4a16_workspace_bytes(const W4A16Args& args, const Executor& executor, int64_t& bytes) {
  bytes = 0;
  Status status;
  const Row<W4A16>* row = row_for(args, executor, status);
  if (!row || args.empty() || !row->workspace_bytes) return status;
  return row->workspace_bytes(args, executor, bytes);
}

}  // namespace qcore
