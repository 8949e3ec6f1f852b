// The way of the Hopper kernel's sums to y. A thread holds two neighbouring tokens of two rows;
// memory wants rows. So each warp turns its 16 rows of 32 tokens over in a corner of shared memory.
// Sums of a tile that several blocks share go to slots of the workspace as the threads hold them,
// and are turned over when they have been added up.
#pragma once

#include "ptx/fragments.h"
#include "tile/scalars.cuh"
#include "tile/schedule.h"
#include "w4a16/hopper_plan.h"

namespace qcore::w4a16 {

// Where y is, and the first row and token of what a warp turns over.
struct HopperOutput {
  int m, n;
  const void* bias;
  void* y;
  bool vector_store;

  // By a whole warp: its rows [row, row + 16) of tokens [token, token + 32), of which a lane has
  // the first 16 of `sums`. Nobody else may use the corner.
  template <class T, int kCount>
  QCORE_DEVICE void turn_over(ptx::SharedAddress corner, const float (&sums)[kCount], int token,
                              int row) const {
    const int lane = ptx::thread_index() % 32;
    QCORE_UNROLL
    for (int i = 0; i < kStagedSums; ++i) {
      const fragments::Element e = fragments::wgmma_d_element(lane, i);
      ptx::store_shared(corner + static_cast<uint32_t>((e.column * kStagedStride + e.row) * 4),
                        sums[i]);
    }
    ptx::sync_warp();
    QCORE_NO_UNROLL
    for (int unit = lane; unit < kStagedTokens * kTileRows / 8; unit += 32) {
      const int unit_token = unit / 2, eight = unit % 2 * 8;
      if (token + unit_token >= m || row + eight >= n) continue;
      float sum[8] = {};
      add_8_floats(corner + static_cast<uint32_t>((unit_token * kStagedStride + eight) * 4), sum);
      store_8<T>(y, bias, token + unit_token, row + eight, n, vector_store, sum);
    }
    ptx::sync_warp();
  }
};

// A slot is [panel][quad][thread of the warpgroup] of four sums each; a quad is of 8 tokens.
struct SharedSums {
  static constexpr int kThreads = 128;

  ptx::Vec16* slots;
  int panels, quads;  // of a tile

  QCORE_DEVICE ptx::Vec16* at(int slot, int panel, int quad) const {
    return slots + ((static_cast<int64_t>(slot) * panels + panel) * quads + quad) * kThreads +
           ptx::thread_index() % kThreads;
  }
};

struct ReduceSharedParams {
  tile::Split split;
  tile::Tiles tiles;
  SharedSums sums;
  HopperOutput out;
};

// Adds up what several blocks have of a tile, in the order of K. A block of threads does one panel
// and 32 tokens.
template <class T>
struct ReduceShared {
  using Params = ReduceSharedParams;
  static constexpr int kThreads = SharedSums::kThreads;
  static constexpr int kMinBlocks = 1;
  static constexpr int kSharedBytes = kThreads / 32 * kStagedBytes;
  static constexpr int kQuads = kStagedTokens / 8;

  static int blocks(const Params& p) {
    return (p.split.tiles - p.split.whole) * p.sums.panels * (p.sums.quads / kQuads);
  }

  QCORE_DEVICE static void run(const Params& p) {
    const int slices = p.sums.quads / kQuads, index = ptx::block_index();
    const int slice = index % slices, panel = index / slices % p.sums.panels;
    const int tile = p.split.whole + index / slices / p.sums.panels;
    const auto at = tile::place_of<false>(p.tiles, tile, slices * kStagedTokens, GlobalLoad{});
    const int token = at.token + slice * kStagedTokens;
    const int row = (at.along * p.sums.panels + panel) * kPanelRows;
    if (token >= p.out.m || row >= p.out.n) return;
    const int64_t begin = int64_t{tile - p.split.whole} * p.split.chunks;
    const int first = p.split.sharer(begin), last = p.split.sharer(begin + p.split.chunks - 1);
    if (first == last) return;  // whoever did it all has written it
    float sums[kStagedSums] = {};
    // The first one has come to this tile from another, or begins with it; the others begin with
    // it.
    add(p, p.split.part(tile, first).slot, panel, slice, sums);
    QCORE_UNROLL_BY(2)
    for (int block = first + 1; block <= last; ++block) add(p, block * 2, panel, slice, sums);
    const int warp = ptx::thread_index() / 32;
    p.out.template turn_over<T>(ptx::shared_base() + static_cast<uint32_t>(warp * kStagedBytes),
                                sums, token, row + warp * kTileRows);
  }

 private:
  QCORE_DEVICE static void add(const Params& p, int slot, int panel, int slice,
                               float (&sums)[kStagedSums]) {
    QCORE_UNROLL
    for (int q = 0; q < kQuads; ++q) {
      const ptx::Vec16 four = ptx::load_global(p.sums.at(slot, panel, slice * kQuads + q));
      QCORE_UNROLL
      for (int j = 0; j < 4; ++j) sums[q * 4 + j] += ptx::float_from_bits(four.word[j]);
    }
  }
};

}  // namespace qcore::w4a16
