// What the CUDA rows of op "w4a16" run.
#include "runtime/device.h"
#include "runtime/launch.h"
#include "w4a16/rows.h"
#include "w4a16/run.h"

namespace qcore::w4a16 {
namespace {

Status plan_for(const W4A16Args& args, const Executor& executor, tile::Plan& plan) {
  cuda::Properties device;
  if (Status status = cuda::properties(executor.index, device); !status.ok()) return status;
  plan = choose_plan(args, {device.multiprocessors, device.shared_bytes});
  return {};
}

}  // namespace

Status workspace_bytes(const W4A16Args& args, const Executor& executor, int64_t& bytes) {
  bytes = 0;
  if (args.empty()) return {};
  tile::Plan plan;
  if (Status status = plan_for(args, executor, plan); !status.ok()) return status;
  bytes = plan.workspace_bytes();
  return {};
}

Status gemm(const W4A16Args& args, const Executor& executor) {
  if (args.empty()) return {};
  tile::Plan plan;
  if (Status status = plan_for(args, executor, plan); !status.ok()) return status;
  if (Status status = check_memory(args, plan.workspace_bytes()); !status.ok()) return status;
  const cuda::Guard guard(executor);
  if (!guard.status().ok()) return guard.status();
  const cuda::Launcher launch{static_cast<cudaStream_t>(executor.stream)};
  return args.dtype == DType::f16 ? run_gemm<ptx::Half>(args, plan, launch)
                                  : run_gemm<ptx::Bfloat>(args, plan, launch);
}

Status reference_gemm(const W4A16Args& args, const Executor& executor) {
  if (args.empty()) return {};
  const cuda::Guard guard(executor);
  if (!guard.status().ok()) return guard.status();
  return run_reference(args, cuda::Launcher{static_cast<cudaStream_t>(executor.stream)});
}

}  // namespace qcore::w4a16
