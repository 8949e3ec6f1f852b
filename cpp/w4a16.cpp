// The public entry of op "w4a16": checks what every row relies on, then runs the selected row.
#include "qcore/w4a16.h"

#include "checks.h"

namespace qcore {
namespace {

Status check(const W4A16Args& args, const Executor& executor) {
  const PackedScaled& weight = args.weight;
  if (Status status = check_gemm(args, executor); !status.ok() || args.empty()) return status;
  if (!weight.qweight) return missing("weight.qweight");
  if (!weight.scales) return missing("weight.scales");
  if (weight.shape.has_zeros && !weight.zeros) return missing("weight.zeros");
  if (!weight.shape.has_zeros && weight.zeros) {
    return Status::invalid("weight.zeros: expected null, because the weight is symmetric");
  }
  return {};
}

}  // namespace

Status w4a16_gemm(const W4A16Args& args, const Executor& executor) {
  if (Status status = check(args, executor); !status.ok()) return status;
  const auto choice = row_for<W4A16>(args, executor);
  if (!choice.row || args.empty()) return choice.status;
  return choice.row->run(args, executor);
}

Status w4a16_workspace_bytes(const W4A16Args& args, const Executor& executor, int64_t& bytes) {
  bytes = 0;
  if (Status status = check(args, executor); !status.ok()) return status;
  const auto choice = row_for<W4A16>(args, executor);
  if (!choice.row || args.empty() || !choice.row->workspace_bytes) return choice.status;
  return choice.row->workspace_bytes(args, executor, bytes);
}

}  // namespace qcore
