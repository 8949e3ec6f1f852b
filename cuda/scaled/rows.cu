// What the CUDA rows of ops "int8" and "fp8" run.
#include <string>

#include "runtime/device.h"
#include "runtime/launch.h"
#include "scaled/rows.h"
#include "scaled/run.h"
#include "tile/plan.h"

namespace qcore::scaled {
namespace {

Status plan_for(const ScaledArgs& args, const Executor& executor, Plan& plan) {
  cuda::Properties device;
  if (Status status = cuda::properties(executor.index, device); !status.ok()) return status;
  plan = choose_plan(work_of(args),
                     {device.multiprocessors, device.shared_bytes, device.all_shared_bytes});
  return {};
}

Status check_workspace(const void* workspace, int64_t bytes) {
  if (bytes == 0 || (workspace && quantize::is_aligned(workspace, 16))) return {};
  return Status::invalid("workspace: expected " + std::to_string(bytes) +
                         " bytes, 16-byte aligned, got " + (workspace ? "others" : "null"));
}

}  // namespace

Status workspace_bytes(const ScaledArgs& args, const Executor& executor, int64_t& bytes) {
  bytes = 0;
  if (args.empty()) return {};
  Plan plan;
  if (Status status = plan_for(args, executor, plan); !status.ok()) return status;
  bytes = workspace_of(args, plan).bytes;
  return {};
}

Status gemm(const ScaledArgs& args, const Executor& executor) {
  if (args.empty()) return {};
  Plan plan;
  if (Status status = plan_for(args, executor, plan); !status.ok()) return status;
  Status status = check_workspace(args.workspace, workspace_of(args, plan).bytes);
  if (!status.ok()) return status;
  const cuda::Guard guard(executor);
  if (!guard.status().ok()) return guard.status();
  return run_gemm(args, plan, cuda::Launcher{static_cast<cudaStream_t>(executor.stream)});
}

Status reference_supports(const ScaledProblem& problem) {
  if (Status status = tile::takes_one_expert(problem.weight.experts); !status.ok()) return status;
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 2;
  if (problem.weight.n <= kMost && problem.weight.k <= kMost) return {};
  return Status::unsupported("counts rows and columns in 32 bits, and this weight has more");
}
Status reference_workspace_bytes(const ScaledArgs& args, const Executor&, int64_t& bytes) {
  bytes = args.empty() ? 0 : reference_workspace_of(args).bytes;
  return {};
}

Status reference_gemm(const ScaledArgs& args, const Executor& executor) {
  if (args.empty()) return {};
  Status status = check_workspace(args.workspace, reference_workspace_of(args).bytes);
  if (!status.ok()) return status;
  const cuda::Guard guard(executor);
  if (!guard.status().ok()) return guard.status();
  return run_reference(args, cuda::Launcher{static_cast<cudaStream_t>(executor.stream)});
}

}  // namespace qcore::scaled
