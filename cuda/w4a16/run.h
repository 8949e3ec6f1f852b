// The launches that make one product, in order. `launch` starts a kernel: on a GPU, or in the
// emulator.
#pragma once

#include "tile/gather.cuh"
#include "tile/launches.h"
#include "w4a16/gemm.cuh"
#include "w4a16/plan.h"
#include "w4a16/reference.cuh"

namespace qcore::w4a16 {

inline tile::Product product_of(const W4A16Args& args) {
  const Geometry g(args.weight.shape);
  return {.m = args.m,
          .n = g.n,
          .columns = g.k,
          .padded_columns = g.padded_k(),
          .chunks = g.chunks,
          .x = args.x,
          .x_stride = args.x_stride,
          .bias = args.bias,
          .y = args.y,
          .workspace = args.workspace,
          .experts = args.weight.shape.experts,
          .offsets = args.offsets};
}

// launch.template operator()<Kernel>(blocks, shared_bytes, params) -> Status
template <class Launch>
Status run_gather(const W4A16Args& args, const tile::Product& pass, const Launch& launch) {
  const Geometry g(args.weight.shape);
  const tile::GatherParams params{.x = pass.x,
                                  .x_stride = pass.x_stride,
                                  .perm = args.perm,
                                  .k = g.k,
                                  .group_size = g.group_size,
                                  .padded_group = g.group_halves * kHalfColumns,
                                  .m = static_cast<int>(pass.m),
                                  .columns = static_cast<int>(g.padded_k()),
                                  .to = pass.workspace};
  return launch.template operator()<tile::Gather>(tile::Gather::blocks(params.m, params.columns), 0,
                                                  params);
}

// The product of plan.tokens tokens, at most.
template <class T, bool kExperts, class Launch>
Status run_pass(const W4A16Args& args, const tile::Product& pass, const tile::Plan& plan,
                const Launch& launch) {
  const PackedScaled& weight = args.weight;
  const Geometry g(weight.shape);
  if (plan.gather) {
    if (Status status = run_gather(args, pass, launch); !status.ok()) return status;
  }
  GemmParams params = {};
  static_cast<tile::TileParams&>(params) = tile::tile_params(pass, plan);
  params.qweight = weight.qweight;
  params.scales = weight.scales;
  params.zeros = weight.zeros;
  params.scale_dtype = weight.shape.scale_dtype;
  params.scale_size = static_cast<int>(size_of(weight.shape.scale_dtype));
  params.set_shift = weight.shape.scale_dtype == DType::f32 ? 3 : 2;
  params.center = center_of(weight.shape.elements);
  params.floats = dequant::FloatCodes(weight.shape.elements, args.dtype);
  params.groups = static_cast<int>(g.groups);
  params.group_halves = static_cast<int>(g.groups > 1 ? g.group_halves : g.padded_k());
  params.halves = static_cast<int>(g.halves);
  params.panels = static_cast<int>(g.panels);
  Status status = Status::unsupported("plan: no such variant of the kernel");
  with_variant(weight.shape, plan.variant, [&]<class V>() {
    params.stage_bytes =
        static_cast<uint32_t>(V::stage_bytes(weight.shape.scale_dtype, weight.shape.has_zeros));
    using Kernel = Gemm<T, std::conditional_t<kExperts, tile::WithExperts<V>, V>>;
    status = launch.template operator()<Kernel>(tile::blocks_of(params), plan.shared_bytes, params);
  });
  return status.ok() ? tile::run_reduce<T>(params, plan, launch) : status;
}

// args.workspace holds plan.workspace_bytes(). kExperts: the weight has several.
template <class T, bool kExperts = false, class Launch>
Status run_gemm(const W4A16Args& args, const tile::Plan& plan, const Launch& launch) {
  return tile::run_passes(product_of(args), plan.tokens, [&](const tile::Product& pass) {
    return run_pass<T, kExperts>(args, pass, plan, launch);
  });
}

template <class Launch>
Status run_reference(const W4A16Args& args, const Launch& launch) {
  const PackedScaled& weight = args.weight;
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
                      .center = center_of(weight.shape.elements),
                      .elements = weight.shape.elements,
                      .perm = args.perm,
                      .bias = args.bias,
                      .y = args.y});
}

}  // namespace qcore::w4a16
