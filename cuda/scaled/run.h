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

// ---- What the two ops do not share

// Quantizes floats as the op says, to the workspace.
inline QuantizeInt8Args quantize_args(const Int8Args& args, const Workspace& at) {
  const bool dynamic = !args.x_scale;
  return {.x = args.floats,
          .symmetric = args.symmetric,
          .granularity = floats_scales(args),
          .given_scale = args.x_scale,
          .given_zero = args.x_zero,
          .q = part_of<int8_t>(args.workspace, at.q),
          .scale = dynamic ? part_of<float>(args.workspace, at.scale) : nullptr,
          .zero = dynamic && !args.symmetric ? part_of<int32_t>(args.workspace, at.zero) : nullptr};
}
inline QuantizeFp8Args quantize_args(const Fp8Args& args, const Workspace& at) {
  return {.x = args.floats,
          .type = args.x_type,
          .granularity = floats_scales(args),
          .given_scale = args.x_scale,
          .q = part_of<uint8_t>(args.workspace, at.q),
          .scale = args.x_scale ? nullptr : part_of<float>(args.workspace, at.scale)};
}

// The same product of x as it is after that.
template <class Args>
Args quantized(Args args, const Workspace& at) {
  if (!args.floats.x) return args;
  const auto q = quantize_args(args, at);
  args.x = q.q;
  args.x_stride = args.k;
  args.x_scales = q.granularity;
  if (q.scale) args.x_scale = q.scale;
  if constexpr (requires { q.zero; }) {
    if (q.zero) args.x_zero = q.zero;
  }
  args.floats.x = nullptr;
  return args;
}

inline int32_t* sums_to_find(const Int8Args& args, const Workspace& at) {
  return args.x_zero && !args.w_sum ? part_of<int32_t>(args.workspace, at.w_sum) : nullptr;
}
inline int32_t* sums_to_find(const Fp8Args&, const Workspace&) {
  return nullptr;
}

inline void set_zeros(const Int8Args& args, const int32_t* found, FinishParams& f) {
  f.x_zero = args.x_zero;
  f.w_sum = found ? found : args.w_sum;
}
inline void set_zeros(const Fp8Args&, const int32_t*, FinishParams&) {}

// ---- Parameters; `args` has x in 8 bits from here on

template <class Args>
FinishParams finish_params(const Args& args, const int32_t* found) {
  const bool blocks = args.x_scales == Granularity::block;
  FinishParams f{};
  f.x_scale = blocks ? nullptr : args.x_scale;
  f.x_step = args.x_scales == Granularity::row;
  f.w_scale = blocks ? nullptr : args.w_scale;
  f.w_step = args.w_scales == Granularity::row;
  set_zeros(args, found, f);
  f.bias = args.bias;
  f.bias_dtype = args.bias_dtype;
  f.dtype = args.dtype;
  f.y = args.y;
  f.n = static_cast<int>(args.n);
  const auto aligned = [](const void* p) { return quantize::is_aligned(p, 16); };
  f.vectors = args.n % 8 == 0 && aligned(args.y) && aligned(args.bias) &&
              (!f.w_step || aligned(args.w_scale));
  return f;
}

template <class Args>
GemmParams gemm_params(const Args& args, const Plan& plan, const int32_t* found) {
  GemmParams p{};
  p.x = reinterpret_cast<const uint8_t*>(args.x);
  p.x_stride = args.x_stride;
  p.weight = reinterpret_cast<const uint8_t*>(args.weight);
  p.n = static_cast<int>(args.n);
  p.k = static_cast<int>(args.k);
  p.chunks = static_cast<int>(ceil_div(args.k, kChunk));
  p.tiles = {.m = static_cast<int>(args.m),
             .across = plan.token_blocks,
             .along = plan.slices,
             .splits = plan.splits};
  if constexpr (requires { args.experts; }) {
    p.tiles.experts = static_cast<int>(args.experts);
    p.tiles.offsets = args.offsets;
  }
  p.split_chunks = plan.split_chunks;
  if (args.x_scales == Granularity::block) {
    p.x_blocks = args.x_scale;
    p.w_blocks = args.w_scale;
  }
  p.finish = finish_params(args, found);
  return p;
}

// ---- Launches

// Calls f.template operator()<X, W>() for the formats of the operands.
template <class F>
Status with_types(const Int8Args&, const F& f) {
  return f.template operator()<ptx::Int8, ptx::Int8>();
}
template <class F>
Status with_types(const Fp8Args& args, const F& f) {
  using ptx::E4m3, ptx::E5m2;
  if (args.x_type == Float8::e4m3) {
    return args.w_type == Float8::e4m3 ? f.template operator()<E4m3, E4m3>()
                                       : f.template operator()<E4m3, E5m2>();
  }
  return args.w_type == Float8::e4m3 ? f.template operator()<E5m2, E4m3>()
                                     : f.template operator()<E5m2, E5m2>();
}

// Which variants of which formats are built.
template <class X, class W, class V>
inline constexpr bool kBuilt = std::is_same_v<X, ptx::Int8> ||
                               (std::is_same_v<X, ptx::E4m3> && std::is_same_v<W, ptx::E4m3>) ||
                               V::kTokens == 16 || V::kTokens == 128;

template <class Launch>
Status run_sum_rows(const SumRowsParams& p, const Launch& launch) {
  if (!p.sums) return {};
  return launch.template operator()<SumRows>(SumRows::blocks(p.n), 0, p);
}

// One launch, or with splits two; with floats always one. args.workspace holds
// workspace_of(args, plan).bytes. kExperts: the weight has several.
//
// launch.template operator()<Kernel>(blocks, shared_bytes, params) -> Status
template <bool kExperts = false, class Args, class Launch>
Status run_gemm(const Args& original, const Plan& plan, const Launch& launch) {
  const Workspace at = workspace_of(original, plan);
  const Args args = quantized(original, at);
  const bool fused = original.floats.x != nullptr;
  int32_t* const sums = sums_to_find(args, at);
  GemmParams p = gemm_params(args, plan, sums);
  p.partial = part_of<char>(args.workspace, at.partial);
  if (fused) {
    p.floats = quantize::params_of(quantize_args(original, at));
    p.find_w_sum = sums;
  } else if (Status status =
                 run_sum_rows({p.weight, int64_t{p.n} * p.tiles.experts, p.k, sums}, launch);
             !status.ok()) {
    return status;
  }
  Status status = Status::unsupported("plan: no such variant of the kernel");
  with_variant(plan.tokens, [&]<class V>() {
    status = with_types(args, [&]<class X, class W>() {
      if constexpr (kBuilt<X, W, V>) {
        using Kernel = Gemm<X, W, std::conditional_t<kExperts, tile::WithExperts<V>, V>>;
        return launch.template operator()<Kernel>(plan.blocks, V::kSharedBytes, p);
      } else {
        return Status::unsupported("plan: no such variant of the kernel");
      }
    });
  });
  if (!status.ok() || fused || plan.splits == 1) return status;
  const ReduceParams reduce{p.partial, p.tiles.splits, p.tiles.m, int64_t{p.tiles.along} * kRows,
                            p.finish};
  using Sum = std::conditional_t<std::is_same_v<Args, Int8Args>, int32_t, float>;
  return launch.template operator()<Reduce<Sum>>(Reduce<Sum>::blocks(reduce), 0, reduce);
}

// Takes everything, a launch for each step. args.workspace holds
// reference_workspace_of(args).bytes.
template <class Args, class Launch>
Status run_reference(const Args& original, const Launch& launch) {
  const Workspace at = reference_workspace_of(original);
  if (original.floats.x) {
    Status status = quantize::run(quantize_args(original, at), launch);
    if (!status.ok()) return status;
  }
  const Args args = quantized(original, at);
  int32_t* const sums = sums_to_find(args, at);
  const uint8_t* const weight = reinterpret_cast<const uint8_t*>(args.weight);
  if (Status status = run_sum_rows({weight, args.n, args.k, sums}, launch); !status.ok()) {
    return status;
  }
  ReferenceParams p{};
  p.x = reinterpret_cast<const uint8_t*>(args.x);
  p.x_stride = args.x_stride;
  p.weight = weight;
  p.m = args.m;
  p.k = args.k;
  if (args.x_scales == Granularity::block) {
    p.x_blocks = args.x_scale;
    p.w_blocks = args.w_scale;
  }
  p.finish = finish_params(args, sums);
  return with_types(args, [&]<class X, class W>() {
    return launch.template operator()<Reference<X, W>>(Reference<X, W>::blocks(args.n), 0, p);
  });
}

}  // namespace qcore::scaled
