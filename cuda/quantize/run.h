// The launches that quantize a matrix. `launch` starts a kernel: on a GPU, or in the emulator.
#pragma once

#include <algorithm>
#include <limits>

#include "quantize/kernels.cuh"

namespace qcore::quantize {

// The extremes of a whole tensor are found by at most so many blocks.
inline constexpr int64_t kExtremeBlocks = 1024;
inline constexpr int64_t kMostBlocks = 1 << 20;

inline bool is_aligned(const void* pointer, size_t to) {
  return reinterpret_cast<uintptr_t>(pointer) % to == 0;
}

// What is the same for both kinds of codes.
inline RowsParams rows_params(const FloatRows& x, Granularity granularity, const uint8_t* q) {
  const int64_t size = size_of(x.dtype);
  RowsParams p{};
  p.x = x.x;
  p.stride = x.stride;
  p.m = x.m;
  p.k = static_cast<int>(x.k);
  p.dtype = x.dtype;
  p.norm_weight = x.norm_weight;
  p.norm_dtype = x.norm_dtype;
  p.norm_eps = x.norm_eps;
  p.vectors = is_aligned(x.x, 16) && (x.m <= 1 || x.stride * size % 16 == 0) &&
              is_aligned(x.norm_weight, 16) && is_aligned(q, 8) && x.k % 8 == 0;
  if (p.vectors) p.held = static_cast<int>(std::min<int64_t>(x.k, kHeldBytes / size));
  p.symmetric = true;
  p.granularity = granularity;
  p.extreme_blocks = static_cast<int>(std::min(x.m, kExtremeBlocks));
  return p;
}

inline int shared_bytes_of(const RowsParams& p) {
  return kExchangeBytes + p.held * static_cast<int>(size_of(p.dtype));
}

inline RowsParams params_of(const QuantizeInt8Args& args) {
  RowsParams p = rows_params(args.x, args.granularity, reinterpret_cast<uint8_t*>(args.q));
  p.q = reinterpret_cast<uint8_t*>(args.q);
  p.symmetric = args.symmetric;
  p.given_scale = args.given_scale;
  p.given_zero = args.given_zero;
  p.extremes = static_cast<Extremes*>(args.workspace);
  p.scale = args.scale;
  p.zero = args.zero;
  return p;
}

inline RowsParams params_of(const QuantizeFp8Args& args) {
  RowsParams p = rows_params(args.x, args.granularity, args.q);
  p.q = args.q;
  p.given_scale = args.given_scale;
  p.extremes = static_cast<Extremes*>(args.workspace);
  p.scale = args.scale;
  return p;
}

inline bool needs_extremes(const RowsParams& p) {
  return p.granularity == Granularity::tensor && !p.given_scale;
}
inline int64_t workspace_bytes_of(const RowsParams& p) {
  return needs_extremes(p) ? p.extreme_blocks * static_cast<int64_t>(sizeof(Extremes)) : 0;
}

// launch.template operator()<Kernel>(blocks, shared_bytes, params) -> Status
template <class X, class Launch>
Status run_rows(const RowsParams& p, const Launch& launch) {
  if (needs_extremes(p)) {
    Status status =
        launch.template operator()<FindExtremes>(p.extreme_blocks, shared_bytes_of(p), p);
    if (!status.ok()) return status;
  }
  // With the scale of a tensor every block reads all extremes, so there are fewer of them.
  const int64_t blocks = std::min(p.m, needs_extremes(p) ? kExtremeBlocks : kMostBlocks);
  return launch.template operator()<Quantize<X>>(static_cast<int>(blocks), shared_bytes_of(p), p);
}

template <class Launch>
Status run(const QuantizeInt8Args& args, const Launch& launch) {
  return run_rows<ptx::Int8>(params_of(args), launch);
}
template <class Launch>
Status run(const QuantizeFp8Args& args, const Launch& launch) {
  return args.type == Float8::e4m3 ? run_rows<ptx::E4m3>(params_of(args), launch)
                                   : run_rows<ptx::E5m2>(params_of(args), launch);
}

}  // namespace qcore::quantize
