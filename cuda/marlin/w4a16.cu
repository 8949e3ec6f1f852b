// What the CUDA rows of op "w4a16" run.
#include "device.h"
#include "launch.h"
#include "marlin/rows.h"
#include "marlin/run.h"

namespace qcore::marlin {
namespace {

Status plan_for(const W4A16Args& args, const Executor& executor, Plan& plan) {
  cuda::Properties device;
  if (Status status = cuda::properties(executor.index, device); !status.ok()) return status;
  plan = choose_plan(args, {device.multiprocessors, device.shared_bytes});
  return {};
}

Status check_aligned(const char* argument, const void* pointer) {
  if (reinterpret_cast<uintptr_t>(pointer) % 16 == 0) return {};
  return Status::invalid(std::string(argument) + ": expected 16-byte aligned memory");
}

}  // namespace

Status workspace_bytes(const W4A16Args& args, const Executor& executor, int64_t& bytes) {
  bytes = 0;
  if (args.empty()) return {};
  Plan plan;
  if (Status status = plan_for(args, executor, plan); !status.ok()) return status;
  bytes = plan.workspace_bytes();
  return {};
}

Status gemm(const W4A16Args& args, const Executor& executor) {
  const PackedIntGroup& weight = args.weight;
  if (args.empty()) return {};
  Plan plan;
  for (const Status& status :
       {check_aligned("weight.qweight", weight.qweight),
        check_aligned("weight.scales", weight.scales), check_aligned("weight.zeros", weight.zeros),
        check_aligned("workspace", args.workspace), plan_for(args, executor, plan)}) {
    if (!status.ok()) return status;
  }
  if (plan.workspace_bytes() > 0 && !args.workspace) {
    return Status::invalid("workspace: expected " + std::to_string(plan.workspace_bytes()) +
                           " bytes, got null");
  }
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

}  // namespace qcore::marlin
