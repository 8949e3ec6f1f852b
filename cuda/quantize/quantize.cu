// The kernels of quantize_int8 and quantize_fp8, and what their rows run.
#include <string>

#include "quantize/rows.h"
#include "quantize/run.h"
#include "runtime/launch.cuh"

namespace qcore {

#define QCORE_QUANTIZE_KERNEL(...) \
  template Status cuda::launch<__VA_ARGS__>(int, int, const __VA_ARGS__::Params&, cudaStream_t)
QCORE_QUANTIZE_KERNEL(quantize::Quantize<ptx::Int8>);
QCORE_QUANTIZE_KERNEL(quantize::Quantize<ptx::E4m3>);
QCORE_QUANTIZE_KERNEL(quantize::Quantize<ptx::E5m2>);
QCORE_QUANTIZE_KERNEL(quantize::FindExtremes);
#undef QCORE_QUANTIZE_KERNEL

namespace quantize {
namespace {

template <class Args>
Status run_on(const Args& args, const Executor& executor) {
  if (args.empty()) return {};
  const int64_t bytes = workspace_bytes_of(params_of(args));
  if (bytes > 0 && !args.workspace) {
    return Status::invalid("workspace: expected " + std::to_string(bytes) + " bytes, got null");
  }
  const cuda::Guard guard(executor);
  if (!guard.status().ok()) return guard.status();
  return run(args, cuda::Launcher{static_cast<cudaStream_t>(executor.stream)});
}

}  // namespace

Status supports(const QuantizeProblem& problem) {
  if (problem.k > std::numeric_limits<int32_t>::max() / 2) {
    return Status::unsupported("counts columns in 32 bits, and K is " + std::to_string(problem.k));
  }
  return {};
}

Status int8_workspace_bytes(const QuantizeInt8Args& args, const Executor&, int64_t& bytes) {
  bytes = args.empty() ? 0 : workspace_bytes_of(params_of(args));
  return {};
}

Status fp8_workspace_bytes(const QuantizeFp8Args& args, const Executor&, int64_t& bytes) {
  bytes = args.empty() ? 0 : workspace_bytes_of(params_of(args));
  return {};
}

Status int8(const QuantizeInt8Args& args, const Executor& executor) {
  return run_on(args, executor);
}

Status fp8(const QuantizeFp8Args& args, const Executor& executor) {
  return run_on(args, executor);
}

}  // namespace quantize
}  // namespace qcore
