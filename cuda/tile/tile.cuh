// What the matrix kernels share, whatever the format of the weight: which part of the product a
// block, a warp and a thread make, the activations' way to shared memory, and the result's way out.
//
// y[M, N] = x[M, K] * W[N, K]^T. The weight is operand A of the matrix unit and the activations are
// operand B, so a tile of 8 tokens wastes nothing at M <= 8, and one packed weight serves every M.
// A warp owns 32 rows of the weight and all tokens of its block.
//
// The 8 warps of a block stand kWarpsN side by side along N and kWarpsK along K. Weights flow from
// global memory to the warp that needs them through kStages slots of shared memory; activations are
// shared by the warps of the same part of K. At the end every warp writes its sums to shared
// memory, and the parts of K are added in order. With splits > 1 several blocks share the K of one
// tile: each writes fp32 sums of its own, and reduce.cuh adds them in order. So the result never
// depends on which block ran first.
#pragma once

#include "ptx/base.cuh"
#include "ptx/fragments.h"
#include "tile/scalars.cuh"
#include "tile/schedule.h"
#include "tile/shape.h"

namespace qcore::tile {

inline constexpr int kWarpTiles = kWarpRows / kTileRows;

struct TileParams {
  const void* x;      // [m, x_columns], 16-byte aligned rows
  int64_t x_stride;   // in pieces of 16 bytes
  int64_t x_columns;  // a multiple of 8; columns of the padded K from here on meet zeros
  int n;              // rows of one expert's weight
  int split_chunks;   // chunks of a split
  uint32_t stage_bytes;
  int chunks;         // along the padded K
  bool vector_store;  // y may be written, and bias read, 16 bytes at a time
  Tiles tiles;
  const void* bias;  // [n] or null
  void* y;           // [m, n]
  float* partial;    // [splits, m, tiles.along * kRows] if splits > 1
};

// Self has place_weights(), load_weights(stage): one chunk, and compute(stage): adds its products
// to `total`. A slot of the pipeline is V::kWeightBytes of weights, then activations, and what else
// Self counts in p.stage_bytes.
template <class Self, class T, class V, class Parameters>
class Tile {
 public:
  using Params = Parameters;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kMinBlocks = V::kMinBlocks;  // per multiprocessor

  QCORE_DEVICE static void run(const Params& p) { Self(p).run_tile(); }

 protected:
  static constexpr int kTokenTiles = V::kTokenTiles;
  // Copies of activations, 16 bytes each, and how many a thread makes per chunk. From one to the
  // next lie whole rows, so tokens and parts of K move by constants.
  static constexpr int kRowPieces = V::kChunkColumns * 2 / 16;
  static constexpr int kPieces = V::kWarpsK * V::kTokens * kRowPieces;
  static constexpr int kSlots = (kPieces + kThreads - 1) / kThreads;
  static constexpr int kSlotTokens = kThreads / kRowPieces;

  QCORE_DEVICE explicit Tile(const Params& params) : p(params), base(ptx::shared_base()) {}

  QCORE_DEVICE void run_tile() {
    place_thread();
    place_block();
    if (!place.exists()) return;
    place_warp();
    self().place_weights();
    place_activation_copies();
    for (int i = 0; i + 1 < V::kStages; ++i)
      load(i, base + static_cast<uint32_t>(i) * p.stage_bytes);
    uint32_t stage = base;
    for (int i = 0; i < iterations; ++i) {
      ptx::copy_async_wait<V::kStages - 2>();
      ptx::sync_block();  // the copies of all threads are there; the slot before is free again
      const uint32_t last = base + (V::kStages - 1) * p.stage_bytes;
      load(i + V::kStages - 1, stage == base ? last : stage - p.stage_bytes);
      if (i < count) self().compute(stage);
      stage = stage == last ? base : stage + p.stage_bytes;
    }
    ptx::copy_async_wait<0>();
    ptx::sync_block();
    place_thread();  // again: the loop needs the registers
    place_block();
    write_sums();
    ptx::sync_block();
    write_tile();
  }

  // ---- Which part of the product

  QCORE_DEVICE void place_thread() {
    thread = ptx::thread_index();
    lane = thread % 32;
    warp_n = thread / 32 % V::kWarpsN;
    warp_k = thread / 32 / V::kWarpsN;
  }

  QCORE_DEVICE void place_block() {
    const int tiles = p.tiles.count();
    split = ptx::block_index() / tiles;
    place = place_of<V::kExperts>(p.tiles, ptx::block_index() % tiles, V::kTokens, GlobalLoad{});
    row0 = place.along * V::kRows;
  }

  // Parts of a split along K are equal but for the last ones.
  QCORE_DEVICE int split_end() const { return min((split + 1) * p.split_chunks, p.chunks); }
  QCORE_DEVICE int part_begin(int part) const {
    return min(split * p.split_chunks + part * iterations, split_end());
  }

  QCORE_DEVICE void place_warp() {
    iterations = (split_end() - split * p.split_chunks + V::kWarpsK - 1) / V::kWarpsK;
    begin = part_begin(warp_k);
    const bool has_rows = row0 + warp_n * kWarpRows < p.n;
    count = has_rows ? part_begin(warp_k + 1) - begin : 0;
  }

  // ---- Copies from global to shared memory. Sources are counted in pieces of 16 bytes, so that 32
  // bits reach them.

  QCORE_DEVICE static const char* piece(const void* from, uint32_t index) {
    return static_cast<const char*>(from) + static_cast<uint64_t>(index) * 16;
  }

  QCORE_DEVICE void place_activation_copies() {
    const int row_piece = thread % kRowPieces, row = thread / kRowPieces;
    const int token = row % V::kTokens, part = row / V::kTokens;
    QCORE_UNROLL
    for (int s = 0; s < kSlots; ++s) {
      const int slot_part = part + part_of_slot(s);
      const int64_t column = static_cast<int64_t>(part_begin(slot_part)) * V::kChunkColumns;
      const int64_t end =
          min(static_cast<int64_t>(part_begin(slot_part + 1)) * V::kChunkColumns, p.x_columns);
      const int64_t columns = end - column - row_piece * 8;
      const int64_t chunks = columns > 0 ? ceil_div(columns, V::kChunkColumns) : 0;
      activations[s] = place.token + token + token_of_slot(s) < place.token_end(p.tiles)
                           ? static_cast<int>(chunks)
                           : kNoToken;
    }
    activation_from =
        static_cast<uint32_t>((place.token + token) * p.x_stride +
                              static_cast<int64_t>(part_begin(part)) * kRowPieces + row_piece);
    activation_to = static_cast<uint32_t>(V::kWeightBytes + part * V::kPartBytes +
                                          activation_offset(token, row_piece));
    // For ldmatrix: which row this lane names, with the address of the first step.
    const int of_lane = kTokenTiles == 1 ? lane % 8 : lane / 16 * 8 + lane % 8;
    const int of_step = kTokenTiles == 1 ? lane / 8 : lane / 8 % 2;
    fragment = static_cast<uint32_t>(V::kWeightBytes + warp_k * V::kPartBytes +
                                     activation_offset(of_lane, of_step));
  }

  static constexpr int kNoToken = -1;
  static constexpr int part_of_slot(int s) { return s * kSlotTokens / V::kTokens; }
  static constexpr int token_of_slot(int s) { return s * kSlotTokens % V::kTokens; }

  // 16-byte pieces of a row are permuted by the row's number, so that 8 rows of one column lie in
  // different banks.
  QCORE_DEVICE static int activation_offset(int token, int row_piece) {
    return (token * kRowPieces + (row_piece ^ (token & 7))) * 16;
  }

  // Starts the copies of chunk i of every part. An empty group keeps the count of groups.
  QCORE_DEVICE void load(int i, uint32_t stage) {
    if (i < count) self().load_weights(stage);
    load_activations(i, stage);
    ptx::copy_async_commit();
  }

  QCORE_DEVICE void load_activations(int i, uint32_t stage) {
    QCORE_UNROLL
    for (int s = 0; s < kSlots; ++s) {
      if (kPieces % kThreads != 0 && thread + s * kThreads >= kPieces) break;
      // Zeros stand for a token that does not exist: once in every slot is enough.
      if (activations[s] == kNoToken && i >= V::kStages) continue;
      const uint32_t step =
          static_cast<uint32_t>(static_cast<int64_t>(part_of_slot(s)) * iterations * kRowPieces +
                                token_of_slot(s) * p.x_stride);
      const bool exists = i < activations[s];
      ptx::copy_async_16(stage + activation_to + static_cast<uint32_t>(s * kThreads * 16),
                         piece(p.x, exists ? activation_from + step : 0), exists ? 16 : 0);
    }
    activation_from += kRowPieces;
  }

  // ---- Matrices

  // The lane's address for a step of 16 columns. It differs from that of another step in bits of
  // the piece alone, which the permutation only flips.
  QCORE_DEVICE uint32_t fragment_of(uint32_t stage, int step) const {
    return (stage + fragment) ^ static_cast<uint32_t>(step * kStepColumns * 2);
  }

  template <class Body>
  QCORE_DEVICE static void for_tiles(const Body& body) {
    QCORE_UNROLL
    for (int tile = 0; tile < kWarpTiles; ++tile) body(tile);
  }

  QCORE_DEVICE static void multiply_add(float (&partial)[kWarpTiles][kTokenTiles][4], int t,
                                        const uint32_t (&a)[kWarpTiles][4],
                                        const uint32_t (&b)[2]) {
    for_tiles([&](int tile) { ptx::mma_16x8x16<T>(partial[tile][t], a[tile], b); });
  }

  // ---- The result

  QCORE_DEVICE void write_sums() const {
    for_tiles([&](int tile) {
      QCORE_UNROLL
      for (int t = 0; t < kTokenTiles; ++t) {
        QCORE_UNROLL
        for (int i = 0; i < 4; ++i) {
          const fragments::Element e = fragments::c_element(lane, i);
          const int row = warp_n * kWarpRows + tile * kTileRows + e.row;
          const int token = t * 8 + e.column;
          ptx::store_shared(sum_at(warp_k, token, row), total[tile][t][i]);
        }
      }
    });
  }

  QCORE_DEVICE uint32_t sum_at(int part, int token, int row) const {
    return base + static_cast<uint32_t>(((part * V::kTokens + token) * V::kSumStride + row) * 4);
  }

  // Eight columns of one token per thread and round.
  QCORE_DEVICE void write_tile() const {
    constexpr int kRowEights = V::kRows / 8;
    for (int index = thread; index < V::kTokens * kRowEights; index += kThreads) {
      const int token = index / kRowEights, row = index % kRowEights * 8;
      if (place.token + token >= place.token_end(p.tiles)) break;
      float sum[8] = {};
      QCORE_UNROLL
      for (int part = 0; part < V::kWarpsK; ++part) {
        add_8_floats(sum_at(part, token, row), sum);
      }
      if (p.tiles.splits > 1) {
        const int64_t width = static_cast<int64_t>(p.tiles.along) * V::kRows;
        store_8_floats(p.partial +
                           (static_cast<int64_t>(split) * p.tiles.m + place.token + token) * width +
                           row0 + row,
                       sum);
      } else {
        store_8<T>(p.y, bias(), place.token + token, row0 + row, p.n, p.vector_store, sum);
      }
    }
  }

  // Of the weight's expert.
  QCORE_DEVICE const void* bias() const {
    if (!V::kExperts || !p.bias) return p.bias;
    return static_cast<const uint16_t*>(p.bias) + static_cast<int64_t>(place.expert) * p.n;
  }

  const Params& p;
  const uint32_t base;  // of shared memory: the slots, later the sums

  int thread, lane, warp_n, warp_k;
  Place<V::kExperts> place;  // of the block
  int split, row0;
  int iterations;    // of the block: the most chunks of any warp
  int begin, count;  // chunks of the warp
  float total[kWarpTiles][kTokenTiles][4] = {};

 private:
  QCORE_DEVICE Self& self() { return static_cast<Self&>(*this); }

  int activations[kSlots];  // chunks that exist, or kNoToken
  uint32_t activation_from, activation_to;
  uint32_t fragment;  // where this lane's row for ldmatrix lies in a stage
};

}  // namespace qcore::tile
