// The launches that are the same for every format of the weight: passes over a large batch, what a
// kernel is told of its tiles, and the sum of the splits.
#pragma once

#include "tile/plan.h"
#include "tile/reduce.cuh"
#include "tile/tile.cuh"

namespace qcore::tile {

// One product, or a pass of it.
struct Product {
  int64_t m, n;
  int64_t columns, padded_columns;  // along K
  int64_t chunks;
  const void* x;
  int64_t x_stride;  // elements
  const void* bias;
  void* y;
  void* workspace;  // plan.workspace_bytes()
  int64_t experts = 1;
  const int32_t* offsets = nullptr;  // of the whole product
  int64_t first = 0;                 // of its rows of x, where this pass begins

  float* partial(const Plan& plan) const {
    return reinterpret_cast<float*>(static_cast<char*>(workspace) + plan.gathered_bytes);
  }
};

// Calls pass(product) for at most `tokens` tokens at a time, of 2 bytes an element.
template <class Pass>
Status run_passes(const Product& product, int64_t tokens, const Pass& pass) {
  for (int64_t token = 0; token < product.m; token += tokens) {
    Product part = product;
    part.m = std::min(tokens, product.m - token);
    part.first = token;
    part.x = static_cast<const char*>(product.x) + token * product.x_stride * 2;
    part.y = static_cast<char*>(product.y) + token * product.n * 2;
    if (Status status = pass(part); !status.ok()) return status;
  }
  return {};
}

// Whether y may be written, and bias read, 16 bytes at a time.
inline bool stores_vectors(const Product& product) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  return product.n % 8 == 0 && aligned(product.y) && aligned(product.bias);
}

inline Tiles tiles_of(const Product& pass, const Plan& plan) {
  return {
      .m = static_cast<int>(pass.m),
      .across = static_cast<int>(tiles_across(pass.m, pass.experts, plan.variant.token_tiles * 8)),
      .along = plan.slices,
      .experts = static_cast<int>(pass.experts),
      .offsets = pass.offsets,
      .first = static_cast<int>(pass.first),
      .splits = plan.splits};
}

// With plan.gather the activations have been brought to the start of the workspace.
inline TileParams tile_params(const Product& pass, const Plan& plan) {
  const int64_t columns = plan.gather ? pass.padded_columns : pass.columns;
  return {
      .x = plan.gather ? pass.workspace : pass.x,
      .x_stride = (plan.gather ? columns : pass.x_stride) / 8,
      .x_columns = columns,
      .n = static_cast<int>(pass.n),
      .split_chunks = plan.split_chunks,
      .stage_bytes = 0,  // the variant's
      .chunks = static_cast<int>(pass.chunks),
      .vector_store = stores_vectors(pass),
      .tiles = tiles_of(pass, plan),
      .bias = pass.bias,
      .y = pass.y,
      .partial = pass.partial(plan),
  };
}

inline int blocks_of(const TileParams& params) {
  return params.tiles.works();
}

// launch.template operator()<Kernel>(blocks, shared_bytes, params) -> Status
template <class T, class Launch>
Status run_reduce(const TileParams& params, const Plan& plan, const Launch& launch) {
  if (plan.splits == 1) return {};
  const int64_t width = int64_t{plan.slices} * kWarps / plan.variant.warps_k * kWarpRows;
  return launch.template operator()<Reduce<T>>(Reduce<T>::blocks(params.tiles.m, width), 0,
                                               ReduceParams{.partial = params.partial,
                                                            .splits = plan.splits,
                                                            .m = params.tiles.m,
                                                            .n = params.n,
                                                            .width = width,
                                                            .bias = params.bias,
                                                            .y = params.y,
                                                            .vector_store = params.vector_store});
}

}  // namespace qcore::tile
