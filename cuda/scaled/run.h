// The launches that make one product of 8-bit matrices, in order. `launch` starts a kernel: on a
// GPU, or in the emulator.
#pragma once

#include "quantize/run.h"
#include "scaled/gemm.cuh"
#include "scaled/plan.h"
#include "scaled/reference.cuh"

namespace qcore::scaled {

template <class T>
T* part_of(void* workspace, int64_t at) {
  return reinterpret_cast<T*>(static_cast<char*>(workspace) + at);
}

// ---- Floats are quantized first, to the workspace

inline QuantizeInt8Args quantize_int8_args(const ScaledArgs& args, const Workspace& at) {
  return {.x = args.floats,
          .symmetric = args.symmetric,
          .granularity = args.floats_scales(),
          .given_scale = args.x_scale,
          .given_zero = args.x_zero,
          .q = part_of<int8_t>(args.workspace, at.q),
          .scale = args.x_scale ? nullptr : part_of<float>(args.workspace, at.scale),
          .zero = args.finds_zeros() ? part_of<int32_t>(args.workspace, at.zero) : nullptr};
}
inline QuantizeFp8Args quantize_fp8_args(const ScaledArgs& args, const Workspace& at) {
  return {.x = args.floats,
          .type = float8_of(args.x_type),
          .granularity = args.floats_scales(),
          .given_scale = args.x_scale,
          .q = part_of<uint8_t>(args.workspace, at.q),
          .scale = args.x_scale ? nullptr : part_of<float>(args.workspace, at.scale)};
}

inline quantize::RowsParams quantize_params(const ScaledArgs& args, const Workspace& at) {
  return args.integers() ? quantize::params_of(quantize_int8_args(args, at))
                         : quantize::params_of(quantize_fp8_args(args, at));
}

template <class Launch>
Status run_quantize(const ScaledArgs& args, const Workspace& at, const Launch& launch) {
  return args.integers() ? quantize::run(quantize_int8_args(args, at), launch)
                         : quantize::run(quantize_fp8_args(args, at), launch);
}

// The same product of x as it is after that.
inline ScaledArgs quantized(const ScaledArgs& args, const Workspace& at) {
  if (!args.floats.x) return args;
  ScaledArgs q = args;
  q.floats.x = nullptr;
  q.x = part_of<uint8_t>(args.workspace, at.q);
  q.x_stride = args.w.k;
  q.x_scales = args.floats_scales();
  if (!args.x_scale) q.x_scale = part_of<float>(args.workspace, at.scale);
  if (args.finds_zeros()) q.x_zero = part_of<int32_t>(args.workspace, at.zero);
  return q;
}

inline int32_t* sums_to_find(const ScaledArgs& args, const Workspace& at) {
  return args.x_zero && !args.w_sum ? part_of<int32_t>(args.workspace, at.w_sum) : nullptr;
}

// ---- Parameters; `args` has x in 8 bits from here on

inline FinishParams finish_params(const ScaledArgs& args, const int32_t* found) {
  const bool blocks = args.x_scales == Granularity::block;
  FinishParams f{};
  f.x_scale = blocks ? nullptr : args.x_scale;
  f.x_step = args.x_scales == Granularity::row;
  f.w_scale = blocks ? nullptr : args.w_scale;
  f.w_step = args.w.granularity == Granularity::row;
  f.x_zero = args.x_zero;
  f.w_sum = found ? found : args.w_sum;
  f.bias = args.bias;
  f.bias_dtype = args.bias_dtype;
  f.dtype = args.dtype;
  f.y = args.y;
  f.n = static_cast<int>(args.w.n);
  const auto aligned = [](const void* p) { return quantize::is_aligned(p, 16); };
  f.vectors = args.w.n % 8 == 0 && aligned(args.y) && aligned(args.bias) &&
              (!f.w_step || aligned(args.w_scale));
  return f;
}

inline GemmParams gemm_params(const ScaledArgs& args, const Plan& plan, const int32_t* found) {
  GemmParams p{};
  p.x = args.x_as<uint8_t>();
  p.x_stride = args.x_stride;
  p.weight = args.weight_as<uint8_t>();
  p.n = static_cast<int>(args.w.n);
  p.k = static_cast<int>(args.w.k);
  p.chunks = static_cast<int>(ceil_div(args.w.k, kChunk));
  p.tiles = {.m = static_cast<int>(args.m),
             .across = plan.token_blocks,
             .along = plan.slices,
             .experts = static_cast<int>(args.w.experts),
             .offsets = args.offsets,
             .splits = plan.splits};
  p.split_chunks = plan.split_chunks;
  if (args.x_scales == Granularity::block) {
    p.x_blocks = args.x_scale;
    p.w_blocks = args.w_scale;
  }
  p.finish = finish_params(args, found);
  return p;
}

// ---- Launches

// Calls f.template operator()<X, W>() for the elements of the operands.
template <class F>
Status with_types(const ScaledArgs& args, const F& f) {
  using ptx::E4m3, ptx::E5m2;
  if (args.integers()) return f.template operator()<ptx::Int8, ptx::Int8>();
  const bool w_e4m3 = args.w.elements == Elements::e4m3;
  if (args.x_type == Elements::e4m3) {
    return w_e4m3 ? f.template operator()<E4m3, E4m3>() : f.template operator()<E4m3, E5m2>();
  }
  return w_e4m3 ? f.template operator()<E5m2, E4m3>() : f.template operator()<E5m2, E5m2>();
}

// Which variants of which elements are built.
template <class X, class W, class V>
inline constexpr bool kBuilt =
    std::is_same_v<X, ptx::Int8> ||
    (!V::kExperts && ((std::is_same_v<X, ptx::E4m3> && std::is_same_v<W, ptx::E4m3>) ||
                      V::kTokens == 16 || V::kTokens == 128));

template <class Launch>
Status run_sum_rows(const SumRowsParams& p, const Launch& launch) {
  if (!p.sums) return {};
  return launch.template operator()<SumRows>(SumRows::blocks(p.n), 0, p);
}

template <class Launch>
Status run_reduce(const ScaledArgs& args, const ReduceParams& p, const Launch& launch) {
  using Integers = Reduce<int32_t>;
  using Floats = Reduce<float>;
  return args.integers() ? launch.template operator()<Integers>(Integers::blocks(p), 0, p)
                         : launch.template operator()<Floats>(Floats::blocks(p), 0, p);
}

// One launch, or with splits two; with floats always one. args.workspace holds
// workspace_of(args, plan).bytes. kExperts: the weight has several.
//
// launch.template operator()<Kernel>(blocks, shared_bytes, params) -> Status
template <bool kExperts = false, class Launch>
Status run_gemm(const ScaledArgs& original, const Plan& plan, const Launch& launch) {
  const Workspace at = workspace_of(original, plan);
  const ScaledArgs args = quantized(original, at);
  const bool fused = original.floats.x != nullptr;
  int32_t* const sums = sums_to_find(args, at);
  GemmParams p = gemm_params(args, plan, sums);
  p.partial = part_of<char>(args.workspace, at.partial);
  if (fused) {
    p.floats = quantize_params(original, at);
    p.find_w_sum = sums;
  } else if (Status status =
                 run_sum_rows({p.weight, int64_t{p.n} * p.tiles.experts, p.k, sums}, launch);
             !status.ok()) {
    return status;
  }
  Status status = Status::unsupported("plan: no such variant of the kernel");
  with_variant(plan.tokens, [&]<class V>() {
    status = with_types(args, [&]<class X, class W>() {
      using Of = std::conditional_t<kExperts, tile::WithExperts<V>, V>;
      if constexpr (kBuilt<X, W, Of>) {
        using Kernel = Gemm<X, W, Of>;
        return launch.template operator()<Kernel>(plan.blocks, V::kSharedBytes, p);
      } else {
        return Status::unsupported("plan: no such variant of the kernel");
      }
    });
  });
  if (!status.ok() || fused || plan.splits == 1) return status;
  const ReduceParams reduce{p.partial, p.tiles.splits, p.tiles.m, int64_t{p.tiles.along} * kRows,
                            p.finish};
  return run_reduce(args, reduce, launch);
}

// Takes everything, a launch for each step. args.workspace holds
// reference_workspace_of(args).bytes.
template <class Launch>
Status run_reference(const ScaledArgs& original, const Launch& launch) {
  const Workspace at = reference_workspace_of(original);
  if (original.floats.x) {
    if (Status status = run_quantize(original, at, launch); !status.ok()) return status;
  }
  const ScaledArgs args = quantized(original, at);
  int32_t* const sums = sums_to_find(args, at);
  const uint8_t* const weight = args.weight_as<uint8_t>();
  if (Status status = run_sum_rows({weight, args.w.n, args.w.k, sums}, launch); !status.ok()) {
    return status;
  }
  ReferenceParams p{};
  p.x = args.x_as<uint8_t>();
  p.x_stride = args.x_stride;
  p.weight = weight;
  p.m = args.m;
  p.k = args.w.k;
  if (args.x_scales == Granularity::block) {
    p.x_blocks = args.x_scale;
    p.w_blocks = args.w_scale;
  }
  p.finish = finish_params(args, sums);
  return with_types(args, [&]<class X, class W>() {
    return launch.template operator()<Reference<X, W>>(Reference<X, W>::blocks(args.w.n), 0, p);
  });
}

}  // namespace qcore::scaled
