// The public entry of op "kquant": checks what every row relies on, then runs the selected row.
#include "qcore/kquant.h"

#include "checks.h"

namespace qcore {
namespace {

Status check(const KquantArgs& args, const Executor& executor) {
  if (Status status = check_gemm(args, executor); !status.ok() || args.empty()) return status;
  return args.weight.data ? Status() : missing("weight.data");
}

}  // namespace

Status kquant_gemm(const KquantArgs& args, const Executor& executor) {
  if (Status status = check(args, executor); !status.ok()) return status;
  const auto choice = row_for<Kquant>(args, executor);
  if (!choice.row || args.empty()) return choice.status;
  return choice.row->run(args, executor);
}

Status kquant_workspace_bytes(const KquantArgs& args, const Executor& executor, int64_t& bytes) {
  bytes = 0;
  if (Status status = check(args, executor); !status.ok()) return status;
  const auto choice = row_for<Kquant>(args, executor);
  if (!choice.row || args.empty() || !choice.row->workspace_bytes) return choice.status;
  return choice.row->workspace_bytes(args, executor, bytes);
}

}  // namespace qcore
