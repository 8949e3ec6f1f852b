#include "runtime/device.h"
#include "runtime/launch.h"
#include "scaled/hopper_rows.h"
#include "scaled/hopper_run.h"

namespace qcore::scaled {
namespace {

Status plan_for(const ScaledArgs& args, const Executor& executor, HopperPlan& plan) {
  cuda::Properties device;
  if (Status status = cuda::properties(executor.index, device); !status.ok()) return status;
  plan = choose_hopper_plan(args, device.multiprocessors);
  return {};
}

}  // namespace

Status hopper_workspace_bytes(const ScaledArgs& args, const Executor& executor, int64_t& bytes) {
  bytes = 0;
  if (args.empty()) return {};
  HopperPlan plan;
  if (Status status = plan_for(args, executor, plan); !status.ok()) return status;
  bytes = hopper_workspace(args, plan).bytes;
  return {};
}

Status hopper_gemm(const ScaledArgs& args, const Executor& executor) {
  if (args.empty()) return {};
  HopperPlan plan;
  if (Status status = plan_for(args, executor, plan); !status.ok()) return status;
  const int64_t bytes = hopper_workspace(args, plan).bytes;
  if (bytes > 0 && !args.workspace) {
    return Status::invalid("workspace: expected " + std::to_string(bytes) + " bytes, got null");
  }
  if (!quantize::is_aligned(args.workspace, 256)) {
    return Status::invalid("workspace: expected 256-byte aligned memory");
  }
  const cuda::Guard guard(executor);
  if (!guard.status().ok()) return guard.status();
  return run_hopper(args, plan, cuda::Launcher{static_cast<cudaStream_t>(executor.stream)});
}

}  // namespace qcore::scaled
