// y[M, N] = x[M, K] * W[N, K]^T for a weight in the layout fragment16: the kernel itself.
//
// The weight is operand A of the matrix unit and the activations are operand B, so a tile of 8
// tokens wastes nothing at M <= 8, and one packed weight serves every M. A warp owns 32 rows of the
// weight and all tokens of its block. Products of codes are summed in fp32 over a group; then the
// sum, not the weights, is multiplied by the group's scale: fewer instructions per weight, and no
// rounding of the weights at all.
//
// The 8 warps of a block stand kWarpsN side by side along N and kWarpsK along K. Weights flow from
// global memory to the one lane that needs them through kStages slots of shared memory (16 bytes a
// lane, never touched by another thread); activations are shared by the warps of the same part of
// K. At the end every warp writes its sums to shared memory, and the parts of K are added in order.
// With splits > 1 several blocks share the K of one tile: each writes fp32 sums of its own, and
// reduce.cuh adds them in order. So the result never depends on which block ran first.
#pragma once

#include "dequant.cuh"
#include "fragments.h"
#include "marlin/layout.h"
#include "marlin/plan.h"
#include "ptx.cuh"
#include "scalars.cuh"

namespace qcore::marlin {

inline constexpr int kWarpTiles = kWarpRows / kTileRows;

struct GemmParams {
  const void* x;     // [m, x_columns], 16-byte aligned rows
  int64_t x_stride;  // in pieces of 16 bytes
  int m, n;
  int64_t x_columns;  // a multiple of 8; columns of the padded K from here on meet zeros
  const void* qweight;
  const void* scales;
  const uint8_t* zeros;  // null if symmetric
  DType scale_dtype;
  int center;  // the zero point of a symmetric weight
  int groups, group_halves;
  int halves, chunks;  // along the padded K
  int slices;          // blocks along N
  int token_blocks;    // blocks along M
  int splits, split_chunks;
  const void* bias;   // [n] or null
  void* y;            // [m, n]
  float* partial;     // [splits, m, slices * kRows] if splits > 1
  bool vector_store;  // y may be written 16 bytes at a time
};

template <class T, int kBits, int kTokenTiles, int kWarpsK>
class Gemm {
 public:
  using Params = GemmParams;
  using V = Variant<kBits, kTokenTiles, kWarpsK>;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kMinBlocks = kTokenTiles == 8 ? 1 : 2;  // per multiprocessor

  QCORE_DEVICE static void run(const Params& p) { Gemm(p).run(); }

 private:
  using Codes = dequant::Codes<T, kBits>;
  static constexpr int kTileBytes = tile_bytes(kBits);
  static constexpr int kWarpBytes = kWarpTiles * kTileBytes;
  static constexpr int kBlocks = kTileBytes / kBlockBytes;
  static constexpr int kStepsPerHalf = kHalfColumns / kStepColumns;
  static constexpr int kRowPieces = kChunkColumns * 2 / 16;  // of 16 bytes
  static constexpr int kPieces = kWarpsK * V::kTokens * kRowPieces;
  static constexpr int kSlots = (kPieces + kThreads - 1) / kThreads;  // copies per thread and chunk

  QCORE_DEVICE explicit Gemm(const Params& params)
      : p(params),
        stage_bytes(
            static_cast<uint32_t>(V::stage_bytes(params.scale_dtype, params.zeros != nullptr))) {}

  QCORE_DEVICE void run() {
    place_thread();
    place_block();
    place_warp();
    place_copies();
    place_fragments();
    for (int i = 0; i + 1 < V::kStages; ++i) load();
    for (int i = 0; i < iterations; ++i) {
      ptx::copy_async_wait<V::kStages - 2>();
      ptx::sync_block();  // the copies of all threads are there; slot i - 1 is free again
      load();
      if (halves_left > 0) compute();
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

  // Blocks that run at the same time should share weights and activations in the L2 cache, so the
  // tiles are walked in groups of 8 blocks of tokens.
  QCORE_DEVICE void place_block() {
    constexpr int kGroup = 8;
    const int tiles = p.slices * p.token_blocks;
    split = ptx::block_index() / tiles;
    const int tile = ptx::block_index() % tiles;
    const int first = tile / (kGroup * p.slices) * kGroup;
    const int height = p.token_blocks - first < kGroup ? p.token_blocks - first : kGroup;
    const int inside = tile - first * p.slices;
    token0 = (first + inside % height) * V::kTokens;
    row0 = inside / height * V::kRows;
  }

  // The chunks [begin, end) of this warp. Parts along K are equal but for the last ones.
  QCORE_DEVICE void place_warp() {
    const int split_begin = split * p.split_chunks;
    const int split_end = min(split_begin + p.split_chunks, p.chunks);
    iterations = (split_end - split_begin + kWarpsK - 1) / kWarpsK;
    begin = min(split_begin + warp_k * iterations, split_end);
    const int end = min(begin + iterations, split_end);
    weights_left = row0 + warp_n * kWarpRows < p.n ? end - begin : 0;
    halves_left = weights_left > 0 ? min(2 * end, p.halves) - 2 * begin : 0;
    group_left = p.group_halves - 2 * begin % p.group_halves;
    if (!p.zeros) set_zeros([&](int) { return static_cast<uint32_t>(p.center * 0x0101); });
  }

  // ---- Copies from global to shared memory

  QCORE_DEVICE void place_copies() {
    const int warp_row = row0 + warp_n * kWarpRows;
    const int64_t panel = warp_row / kPanelRows, half_panel = warp_row % kPanelRows / kWarpRows;
    weight_from = static_cast<uint32_t>(
        ((panel * p.chunks + begin) * kTiles + half_panel * kWarpTiles) * (kTileBytes / 16) + lane);
    place_parameter_copy(panel, half_panel);
    place_activation_copies();
  }

  // Lanes 0 .. 15 bring the scales of the two halves of a chunk, lanes 16 .. 19 the zero points; 16
  // bytes a lane. Scales are needed where a group ends, zero points where it begins.
  QCORE_DEVICE void place_parameter_copy(int64_t panel, int64_t half_panel) {
    const bool is_zero = lane >= 16;
    const int size = is_zero ? 1 : static_cast<int>(size_of(p.scale_dtype));
    const int lanes = kWarpRows * size / 16;
    const int index = lane % 16;
    const bool needed = index < 2 * lanes && (!is_zero || p.zeros);
    const int64_t first = 2 * begin + index / lanes;
    parameter_first = index < lanes;
    parameters_left = needed ? halves_left - index / lanes : 0;
    parameter_position = static_cast<int>(first % p.group_halves);
    parameter_step = static_cast<uint32_t>(kPanelRows * size / 16);
    parameter_from = static_cast<uint32_t>(
        ((panel * p.groups + first / p.group_halves) * kPanelRows + half_panel * kWarpRows) * size /
            16 +
        index % lanes);
    const int scale_bytes = 2 * kWarpRows * static_cast<int>(size_of(p.scale_dtype));
    parameter_to = static_cast<uint32_t>((is_zero ? scale_bytes : 0) + index * 16);
  }

  // A thread copies the same piece of the same token of every chunk; its second slot is kThreads
  // pieces further: other tokens, or another part of K.
  QCORE_DEVICE void place_activation_copies() {
    const int split_end = min((split + 1) * p.split_chunks, p.chunks);
    const int piece = thread % kRowPieces;
    QCORE_UNROLL
    for (int s = 0; s < kSlots; ++s) {
      const int index = thread + s * kThreads;
      const int part = index / (V::kTokens * kRowPieces);
      const int token = index / kRowPieces % V::kTokens;
      const int from = min(split * p.split_chunks + part * iterations, split_end);
      const int to = min(from + iterations, split_end);
      const int64_t column = static_cast<int64_t>(from) * kChunkColumns + piece * 8;
      const int64_t columns = min(static_cast<int64_t>(to) * kChunkColumns, p.x_columns) - column;
      const bool exists = part < kWarpsK && token0 + token < p.m && columns > 0;
      activations_left[s] =
          exists ? static_cast<int>((columns + kChunkColumns - 1) / kChunkColumns) : 0;
      if (s == 0) {
        activation_from = static_cast<uint32_t>((token0 + token) * p.x_stride + column / 8);
        activation_to =
            static_cast<uint32_t>(part * V::kPartBytes + activation_offset(token, piece));
      }
    }
    constexpr int kSlotParts = kThreads / (V::kTokens * kRowPieces);
    activation_step = static_cast<uint32_t>(kSlotParts > 0 ? kSlotParts * iterations * kRowPieces
                                                           : kThreads / kRowPieces * p.x_stride);
  }

  // 16-byte pieces of a row are permuted by the row's number, so that 8 rows of one column lie in
  // different banks.
  QCORE_DEVICE static int activation_offset(int token, int piece) {
    return token * kRowPieces * 16 + (piece ^ (token & 7)) * 16;
  }

  QCORE_DEVICE static const void* piece(const void* base, uint32_t index) {
    return static_cast<const char*>(base) + static_cast<uint64_t>(index) * 16;
  }
  QCORE_DEVICE int parameter_bytes() const {
    return V::parameter_bytes(p.scale_dtype, p.zeros != nullptr);
  }
  // Slots are used in turn: the next one after `stage`.
  QCORE_DEVICE uint32_t after(uint32_t stage) const {
    return stage + stage_bytes == stage_bytes * V::kStages ? 0 : stage + stage_bytes;
  }
  QCORE_DEVICE uint32_t weights_at(uint32_t stage) const {
    return stage + static_cast<uint32_t>(thread / 32 * kWarpBytes + lane * kLaneBytes);
  }
  QCORE_DEVICE uint32_t activations_at(uint32_t stage) const { return stage + V::kWeightBytes; }
  QCORE_DEVICE uint32_t parameters_at(uint32_t stage) const {
    return stage + static_cast<uint32_t>(V::kWeightBytes + V::kActivationBytes +
                                         thread / 32 * parameter_bytes());
  }

  // Starts the copies of the next chunk. An empty group keeps the count of groups.
  QCORE_DEVICE void load() {
    const uint32_t stage = load_stage;
    load_stage = after(stage);
    if (weights_left > 0) {
      QCORE_UNROLL
      for (int c = 0; c < kWarpTiles * kBlocks; ++c) {
        ptx::copy_async_16(weights_at(stage) + static_cast<uint32_t>(c * kBlockBytes),
                           piece(p.qweight, weight_from + static_cast<uint32_t>(c * 32)), 16);
      }
      weight_from += kTiles * kTileBytes / 16;
      --weights_left;
      load_parameters(stage);
    }
    QCORE_UNROLL
    for (int s = 0; s < kSlots; ++s) {
      if (kPieces % kThreads != 0 && thread + s * kThreads >= kPieces) break;
      const bool exists = activations_left[s] > 0;
      ptx::copy_async_16(
          activations_at(stage) + activation_to + static_cast<uint32_t>(s * kThreads * 16),
          piece(p.x, exists ? activation_from + s * activation_step : 0), exists ? 16 : 0);
      --activations_left[s];
    }
    activation_from += kRowPieces;
    ptx::copy_async_commit();
  }

  QCORE_DEVICE void load_parameters(uint32_t stage) {
    if (parameters_left > 0) {
      const bool needed = lane < 16
                              ? parameter_position + 1 == p.group_halves || parameters_left == 1
                              : parameter_position == 0 || parameter_first;
      if (needed) {
        ptx::copy_async_16(parameters_at(stage) + parameter_to,
                           piece(lane < 16 ? p.scales : p.zeros, parameter_from), 16);
      }
    }
    parameter_first = false;
    parameters_left -= 2;
    parameter_position += 2;
    while (parameter_position >= p.group_halves) {
      parameter_position -= p.group_halves;
      parameter_from += parameter_step;
    }
  }

  // ---- The product

  QCORE_DEVICE void compute() {
    const uint32_t stage = compute_stage;
    compute_stage = after(stage);
    ptx::Vec16 blocks[kWarpTiles];
    QCORE_UNROLL
    for (int h = 0; h < 2; ++h) {
      if (halves_left == 0) break;
      if (h == 0 || kBlocks == 2) load_blocks(stage, h, blocks);
      if (p.zeros && group_begins) load_zeros(stage, h);
      multiply(stage, h, blocks);
      --halves_left;
      --group_left;
      group_begins = group_left == 0 || halves_left == 0;
      if (group_begins) {
        flush(stage, h);
        group_left = p.group_halves;
      }
    }
  }

  QCORE_DEVICE void load_blocks(uint32_t stage, int h, ptx::Vec16 (&blocks)[kWarpTiles]) {
    QCORE_UNROLL
    for (int tile = 0; tile < kWarpTiles; ++tile) {
      blocks[tile] = ptx::load_shared<ptx::Vec16>(
          weights_at(stage) +
          static_cast<uint32_t>(tile * kTileBytes + h * (kBlocks - 1) * kBlockBytes));
    }
  }

  // One ldmatrix brings four 8x8 matrices: two steps of 8 tokens if there are no more, else one
  // step of 16 tokens, so that few fragments of the weight are live at a time. The lane's address
  // for another step differs in bits of the piece alone, which the permutation only flips.
  QCORE_DEVICE void place_fragments() {
    const int token = kTokenTiles == 1 ? lane % 8 : lane / 16 * 8 + lane % 8;
    const int piece = kTokenTiles == 1 ? lane / 8 : lane / 8 % 2;
    fragment = static_cast<uint32_t>(V::kWeightBytes + warp_k * V::kPartBytes +
                                     activation_offset(token, piece));
  }

  QCORE_DEVICE void multiply(uint32_t stage, int h, const ptx::Vec16 (&blocks)[kWarpTiles]) {
    uint32_t a[kWarpTiles][4], b[4];
    if constexpr (kTokenTiles == 1) {
      ptx::ldmatrix_x4(b, (stage + fragment) ^ static_cast<uint32_t>(h * kHalfColumns * 2));
    }
    QCORE_UNROLL
    for (int s = 0; s < kStepsPerHalf; ++s) {
      const int step = h * kStepsPerHalf + s;
      QCORE_UNROLL
      for (int tile = 0; tile < kWarpTiles; ++tile) dequantize(blocks, tile, step, a[tile]);
      if constexpr (kTokenTiles == 1) {
        multiply_add(0, a, {b[2 * s], b[2 * s + 1]});
      } else {
        const uint32_t from = (stage + fragment) ^ static_cast<uint32_t>(step * kStepColumns * 2);
        QCORE_UNROLL
        for (int t = 0; t < kTokenTiles; t += 2) {
          ptx::ldmatrix_x4(b, from + static_cast<uint32_t>(t * 8 * kRowPieces * 16));
          multiply_add(t, a, {b[0], b[1]});
          multiply_add(t + 1, a, {b[2], b[3]});
        }
      }
    }
  }

  QCORE_DEVICE void dequantize(const ptx::Vec16 (&blocks)[kWarpTiles], int tile, int step,
                               uint32_t (&a)[4]) const {
    Codes::dequantize(&blocks[tile].word[step * Codes::kWords % 4], offsets[tile], a);
  }
  QCORE_DEVICE void multiply_add(int t, const uint32_t (&a)[kWarpTiles][4],
                                 const uint32_t (&b)[2]) {
    QCORE_UNROLL
    for (int tile = 0; tile < kWarpTiles; ++tile) {
      ptx::mma_16x8x16<T>(partial[tile][t], a[tile], b);
    }
  }

  // A lane's rows of a tile are r and r + 8, r = lane / 4, whose parameters are neighbours.
  template <class Load>
  QCORE_DEVICE void set_zeros(Load&& pair_of_tile) {
    QCORE_UNROLL
    for (int tile = 0; tile < kWarpTiles; ++tile) {
      const uint32_t pair = pair_of_tile(tile);
      offsets[tile] = Codes::offsets(pair & 0xff, pair >> 8);
    }
  }

  QCORE_DEVICE void load_zeros(uint32_t stage, int h) {
    const uint32_t base =
        parameters_at(stage) +
        static_cast<uint32_t>(2 * kWarpRows * static_cast<int>(size_of(p.scale_dtype)) +
                              h * kWarpRows + lane / 4 * 2);
    set_zeros([&](int tile) -> uint32_t {
      return ptx::load_shared<uint16_t>(base + static_cast<uint32_t>(tile * kTileRows));
    });
  }

  // total += scale * partial, and the next group starts at zero.
  QCORE_DEVICE void flush(uint32_t stage, int h) {
    const int size = static_cast<int>(size_of(p.scale_dtype));
    const uint32_t base =
        parameters_at(stage) + static_cast<uint32_t>((h * kWarpRows + lane / 4 * 2) * size);
    QCORE_UNROLL
    for (int tile = 0; tile < kWarpTiles; ++tile) {
      const Pair scale =
          load_shared_pair(p.scale_dtype, base + static_cast<uint32_t>(tile * kTileRows * size));
      QCORE_UNROLL
      for (int t = 0; t < kTokenTiles; ++t) {
        QCORE_UNROLL
        for (int i = 0; i < 4; ++i) {
          total[tile][t][i] += (i < 2 ? scale.first : scale.second) * partial[tile][t][i];
          partial[tile][t][i] = 0;
        }
      }
    }
  }

  // ---- The result

  QCORE_DEVICE void write_sums() {
    QCORE_UNROLL
    for (int tile = 0; tile < kWarpTiles; ++tile) {
      QCORE_UNROLL
      for (int t = 0; t < kTokenTiles; ++t) {
        QCORE_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int row = warp_n * kWarpRows + tile * kTileRows + lane / 4 + (i < 2 ? 0 : 8);
          const int token = t * 8 + lane % 4 * 2 + i % 2;
          ptx::store_shared<float>(
              static_cast<uint32_t>(((warp_k * V::kTokens + token) * V::kSumStride + row) * 4),
              total[tile][t][i]);
        }
      }
    }
  }

  // Eight columns of one token per thread and round.
  QCORE_DEVICE void write_tile() {
    constexpr int kRowEights = V::kRows / 8;
    for (int index = thread; index < V::kTokens * kRowEights; index += kThreads) {
      const int token = index / kRowEights, row = index % kRowEights * 8;
      if (token0 + token >= p.m) break;
      float sum[8] = {};
      QCORE_UNROLL
      for (int part = 0; part < kWarpsK; ++part) {
        QCORE_UNROLL
        for (int v = 0; v < 2; ++v) {
          const ptx::Vec16 four = ptx::load_shared<ptx::Vec16>(static_cast<uint32_t>(
              ((part * V::kTokens + token) * V::kSumStride + row + v * 4) * 4));
          for (int j = 0; j < 4; ++j) sum[v * 4 + j] += ptx::float_from_bits(four.word[j]);
        }
      }
      if (p.splits > 1) {
        const int64_t width = static_cast<int64_t>(p.slices) * V::kRows;
        store_8_floats(
            p.partial + (static_cast<int64_t>(split) * p.m + token0 + token) * width + row0 + row,
            sum);
      } else {
        store_8<T>(p.y, p.bias, token0 + token, row0 + row, p.n, p.vector_store, sum);
      }
    }
  }

  const Params& p;
  int thread, lane, warp_n, warp_k;
  const uint32_t stage_bytes;
  uint32_t load_stage = 0, compute_stage = 0;  // where the next copies go, and the next product

  int split, token0, row0;  // of the block
  int iterations;           // of the block: the most chunks of any warp
  int begin;                // the first chunk of the warp

  // What is left to copy. Sources are counted in pieces of 16 bytes: 32 bits reach 64 GiB.
  uint32_t weight_from;
  int weights_left;  // chunks
  uint32_t parameter_from, parameter_to;
  uint32_t parameter_step;   // from group to group
  int parameters_left;       // halves, from this lane's next one on
  int parameter_position;    // of that half in its group
  bool parameter_first;      // whether it is the warp's first
  uint32_t activation_from;  // of the first slot
  uint32_t activation_step;  // from slot to slot
  uint32_t activation_to;
  int activations_left[kSlots];  // chunks

  // What is left to multiply.
  int halves_left, group_left;  // of the warp, of the present group
  bool group_begins = true;
  uint32_t fragment;  // where this lane's row for ldmatrix lies in a stage

  dequant::Offsets offsets[kWarpTiles];
  float partial[kWarpTiles][kTokenTiles][4] = {};
  float total[kWarpTiles][kTokenTiles][4] = {};
};

}  // namespace qcore::marlin
