// The launches that make one product, in order. `launch` starts a kernel: on a GPU, or in the
// emulator.
#pragma once

#include "marlin/activations.cuh"
#include "marlin/gemm.cuh"
#include "marlin/plan.h"
#include "marlin/reduce.cuh"
#include "marlin/reference.cuh"

namespace qcore::marlin {

// launch.template operator()<Kernel>(blocks, shared_bytes, params) -> Status
template <class Launch>
Status run_gather(const W4A16Args& args, void* to, const Launch& launch) {
  const Geometry g(args.weight.shape);
  const GatherParams params{.x = args.x,
                            .x_stride = args.x_stride,
                            .perm = args.perm,
                            .k = g.k,
                            .group_size = g.group_size,
                            .group_halves = g.group_halves,
                            .m = static_cast<int>(args.m),
                            .columns = static_cast<int>(g.padded_k()),
                            .to = to};
  return launch.template operator()<Gather>(Gather::blocks(params.m, params.columns), 0, params);
}

// The product of plan.tokens tokens, at most.
template <class T, class Launch>
Status run_pass(const W4A16Args& args, const Plan& plan, const Launch& launch) {
  const PackedIntGroup& weight = args.weight;
  const Geometry g(weight.shape);
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const bool vector_store = g.n % 8 == 0 && aligned(args.y) && aligned(args.bias);
  char* const workspace = static_cast<char*>(args.workspace);
  float* const partial = reinterpret_cast<float*>(workspace + plan.gathered_bytes);
  const int64_t columns = g.padded_k();
  if (plan.gather) {
    if (Status status = run_gather(args, workspace, launch); !status.ok()) return status;
  }

  GemmParams params{
      .x = plan.gather ? workspace : args.x,
      .x_stride = (plan.gather ? columns : args.x_stride) / 8,
      .m = static_cast<int>(args.m),
      .n = static_cast<int>(g.n),
      .x_columns = plan.gather ? columns : g.k,
      .qweight = weight.qweight,
      .scales = weight.scales,
      .zeros = weight.zeros,
      .scale_dtype = weight.shape.scale_dtype,
      .scale_size = static_cast<int>(size_of(weight.shape.scale_dtype)),
      .set_shift = weight.shape.scale_dtype == DType::f32 ? 3 : 2,
      .center = weight.shape.center(),
      .stage_bytes = 0,  // the variant's
      .groups = static_cast<int>(g.groups),
      .group_halves = static_cast<int>(g.groups > 1 ? g.group_halves : g.padded_k()),
      .halves = static_cast<int>(g.halves),
      .chunks = static_cast<int>(g.chunks),
      .slices = plan.slices,
      .token_blocks = static_cast<int>(ceil_div(args.m, plan.variant.token_tiles * 8)),
      .splits = plan.splits,
      .split_chunks = plan.split_chunks,
      .bias = args.bias,
      .y = args.y,
      .partial = partial,
      .vector_store = vector_store,
  };
  const int blocks = params.slices * params.token_blocks * params.splits;
  Status status = Status::unsupported("plan: no such variant of the kernel");
  with_variant(weight.shape, plan.variant, [&]<class V>() {
    params.stage_bytes =
        static_cast<uint32_t>(V::stage_bytes(weight.shape.scale_dtype, weight.shape.has_zeros));
    status = launch.template operator()<Gemm<T, V>>(blocks, plan.shared_bytes, params);
  });
  if (!status.ok() || plan.splits == 1) return status;
  const int64_t width = int64_t{plan.slices} * kWarps / plan.variant.warps_k * kWarpRows;
  return launch.template operator()<Reduce<T>>(Reduce<T>::blocks(args.m, width), 0,
                                               ReduceParams{.partial = partial,
                                                            .splits = plan.splits,
                                                            .m = params.m,
                                                            .n = params.n,
                                                            .width = width,
                                                            .bias = args.bias,
                                                            .y = args.y,
                                                            .vector_store = vector_store});
}

// args.workspace holds plan.workspace_bytes().
template <class T, class Launch>
Status run_gemm(const W4A16Args& args, const Plan& plan, const Launch& launch) {
  for (int64_t token = 0; token < args.m; token += plan.tokens) {
    W4A16Args pass = args;
    pass.m = std::min<int64_t>(plan.tokens, args.m - token);
    pass.x = static_cast<const char*>(args.x) + token * args.x_stride * size_of(args.dtype);
    pass.y = static_cast<char*>(args.y) + token * args.weight.shape.n * size_of(args.dtype);
    if (Status status = run_pass<T>(pass, plan, launch); !status.ok()) return status;
  }
  return {};
}

template <class Launch>
Status run_reference(const W4A16Args& args, const Launch& launch) {
  const PackedIntGroup& weight = args.weight;
  return launch.template operator()<Reference>(
      Reference::blocks(weight.shape.n), 0,
      ReferenceParams{.dtype = args.dtype,
                      .scale_dtype = weight.shape.scale_dtype,
                      .x = args.x,
                      .x_stride = args.x_stride,
                      .m = args.m,
                      .geometry = Geometry(weight.shape),
                      .qweight = static_cast<const uint8_t*>(weight.qweight),
                      .scales = weight.scales,
                      .zeros = weight.zeros,
                      .center = weight.shape.center(),
                      .perm = args.perm,
                      .bias = args.bias,
                      .y = args.y});
}

}  // namespace qcore::marlin
