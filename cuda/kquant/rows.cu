// What the CUDA rows of op "kquant" run, and decoding and packing in the memory of a GPU.
#include <string>

#include "kquant/rows.h"
#include "kquant/run.h"
#include "runtime/device.h"
#include "runtime/launch.h"

namespace qcore::kquant {
namespace {

Status plan_for(const KquantArgs& args, const Executor& executor, tile::Plan& plan) {
  cuda::Properties device;
  if (Status status = cuda::properties(executor.index, device); !status.ok()) return status;
  plan = choose_plan(args, {device.multiprocessors, device.shared_bytes});
  return {};
}

Status check_aligned(const char* argument, const void* pointer) {
  if (reinterpret_cast<uintptr_t>(pointer) % 16 == 0) return {};
  return Status::invalid(std::string(argument) + ": expected 16-byte aligned memory");
}

cuda::Launcher launcher(const Executor& executor) {
  return {static_cast<cudaStream_t>(executor.stream)};
}

}  // namespace

Status dequantize(const BlockFormat& format, const DequantizeParams& params,
                  const Executor& executor) {
  for (const Status& status :
       {check_aligned("blocks", params.blocks), check_aligned("out", params.out)}) {
    if (!status.ok()) return status;
  }
  const cuda::Guard guard(executor);
  if (!guard.status().ok()) return guard.status();
  return run_dequantize(format, params, launcher(executor));
}

Status cuda_pack(const BlockShape& shape, const void* blocks, void* packed,
                 const Executor& executor) {
  if (Status status = check_aligned("packed", packed); !status.ok()) return status;
  const cuda::Guard guard(executor);
  if (!guard.status().ok()) return guard.status();
  return run_pack(shape, blocks, packed, launcher(executor));
}

Status cuda_unpack(const PackedBlocks& packed, void* blocks, const Executor& executor) {
  if (Status status = check_aligned("packed.data", packed.data); !status.ok()) return status;
  const cuda::Guard guard(executor);
  if (!guard.status().ok()) return guard.status();
  return run_unpack(packed, blocks, launcher(executor));
}

Status workspace_bytes(const KquantArgs& args, const Executor& executor, int64_t& bytes) {
  bytes = 0;
  if (args.empty()) return {};
  tile::Plan plan;
  if (Status status = plan_for(args, executor, plan); !status.ok()) return status;
  bytes = plan.workspace_bytes();
  return {};
}

Status gemm(const KquantArgs& args, const Executor& executor) {
  if (args.empty()) return {};
  tile::Plan plan;
  for (const Status& status :
       {check_aligned("weight.data", args.weight.data), check_aligned("workspace", args.workspace),
        plan_for(args, executor, plan)}) {
    if (!status.ok()) return status;
  }
  if (plan.workspace_bytes() > 0 && !args.workspace) {
    return Status::invalid("workspace: expected " + std::to_string(plan.workspace_bytes()) +
                           " bytes, got null");
  }
  const cuda::Guard guard(executor);
  if (!guard.status().ok()) return guard.status();
  return args.dtype == DType::f16 ? run_gemm<ptx::Half>(args, plan, launcher(executor))
                                  : run_gemm<ptx::Bfloat>(args, plan, launcher(executor));
}

Status reference_gemm(const KquantArgs& args, const Executor& executor) {
  if (args.empty()) return {};
  if (Status status = check_aligned("weight.data", args.weight.data); !status.ok()) return status;
  const cuda::Guard guard(executor);
  if (!guard.status().ok()) return guard.status();
  return run_reference(args, launcher(executor));
}

}  // namespace qcore::kquant
