// What the row w4a16_marlin_sm90 runs.
#include "runtime/device.h"
#include "runtime/launch.h"
#include "w4a16/hopper_run.h"
#include "w4a16/rows.h"

namespace qcore::w4a16 {
namespace {

Status plan_for(const W4A16Args& args, const Executor& executor, HopperPlan& plan) {
  cuda::Properties device;
  if (Status status = cuda::properties(executor.index, device); !status.ok()) return status;
  plan = choose_hopper_plan(args, device.multiprocessors);
  return {};
}

}  // namespace

Status hopper_workspace_bytes(const W4A16Args& args, const Executor& executor, int64_t& bytes) {
  bytes = 0;
  if (args.empty()) return {};
  HopperPlan plan;
  if (Status status = plan_for(args, executor, plan); !status.ok()) return status;
  bytes = plan.workspace_bytes();
  return {};
}

Status hopper_gemm(const W4A16Args& args, const Executor& executor) {
  if (args.empty()) return {};
  HopperPlan plan;
  if (Status status = plan_for(args, executor, plan); !status.ok()) return status;
  if (Status status = check_memory(args, plan.workspace_bytes()); !status.ok()) return status;
  const cuda::Guard guard(executor);
  if (!guard.status().ok()) return guard.status();
  const cuda::Launcher launch{static_cast<cudaStream_t>(executor.stream)};
  return args.dtype == DType::f16 ? run_hopper<ptx::Half>(args, plan, launch)
                                  : run_hopper<ptx::Bfloat>(args, plan, launch);
}

}  // namespace qcore::w4a16
