// y[M, N] = x[M, K] * W[N, K]^T for 8-bit integers and floats, both matrices as the user has them.
//
// The weight is operand A of the matrix unit and x is operand B, so that a tile of 8 tokens wastes
// nothing at M <= 8. A block of 256 threads makes 128 rows of the weight times V::kTokens tokens.
// Of both matrices 128 columns at a time flow through kStages slots of shared memory, 128 bytes a
// row, whose 16-byte pieces are permuted by the row's number: so ldmatrix finds 8 rows in 8
// different groups of banks. What lies beyond the matrices is zero.
//
// Integers are summed exactly. FP8 products of 128 columns are summed by the matrix unit, and these
// sums in fp32: the unit keeps few bits of a long sum. There the scales of blocks are applied.
//
// With splits > 1 several blocks share the K of one tile: each writes its sums, and finish.cuh adds
// them in order. So the result never depends on which block ran first.
//
// With floats for x, the blocks first quantize its rows to the workspace, then meet, then multiply;
// for that all of them must run at the same time, and they take their tiles in turns.
#pragma once

#include "ptx/fragments.h"
#include "quantize/rows.cuh"
#include "scaled/finish.cuh"
#include "scaled/row_sums.cuh"
#include "scaled/variant.h"
#include "tile/schedule.h"

namespace qcore::scaled {

struct GemmParams {
  const uint8_t* x;  // [m, k], rows x_stride bytes apart, all of them 16-byte aligned
  int64_t x_stride;
  const uint8_t* weight;  // [n, k], likewise
  int n, split_chunks;    // rows of one expert's weight; chunks of a split
  int k, chunks;          // chunks: along K
  tile::Tiles tiles;
  const float* x_blocks;  // [m, chunks], scales of blocks, or null
  const float* w_blocks;  // [tiles.along, chunks]
  void* partial;          // [splits, m, tiles.along * kRows] if splits > 1
  FinishParams finish;
  quantize::RowsParams floats;  // what is quantized to x first, if floats.x is not null
  int32_t* find_w_sum;  // [experts, n]: find the sums over the rows of the weight as well, or null
};

// X and W: ptx::Int8 both, or E4m3 or E5m2 each.
template <class X, class W, class V>
class Gemm {
 public:
  using Params = GemmParams;
  static constexpr int kThreads = scaled::kThreads;
  static constexpr int kMinBlocks = V::kMinBlocks;

  // Whether the blocks of this launch wait for each other.
  static bool meets_grid(const Params& p) { return p.floats.x != nullptr; }

  QCORE_DEVICE static void run(const Params& p) {
    if (p.floats.x) {
      quantize(p);
      ptx::sync_grid();
    }
    const int works = p.tiles.works();
    for (int work = ptx::block_index(); work < works; work += ptx::block_count()) {
      Gemm(p, work).run_tile();
    }
    if (p.floats.x && p.tiles.splits > 1) {
      ptx::sync_grid();
      reduce<Sum>({p.partial, p.tiles.splits, p.tiles.m,
                   static_cast<int64_t>(p.tiles.along) * kRows, p.finish},
                  kThreads);
    }
  }

 private:
  static constexpr bool kInteger = std::is_same_v<X, ptx::Int8>;
  using Sum = std::conditional_t<kInteger, int32_t, float>;
  // Of a warp, in tiles of the matrix instruction: 16 rows, 8 tokens.
  static constexpr int kRowTiles = kRows / V::kWarpsN / 16;
  static constexpr int kTokenTiles = V::kTokens / V::kWarpsM / 8;
  static constexpr int kSteps = kChunk / 32;
  // Of which so many may overlap.
  static constexpr int kOverlap = kInteger || ptx::kHasFp8Product || kRowTiles == 1 ? kSteps : 1;
  static constexpr int kPieces = kChunk / 16;           // of a row, 16 bytes each
  static constexpr int kCopyRows = kThreads / kPieces;  // rows that all threads copy at once
  static constexpr int kWeightBytes = kRows * kChunk;
  static constexpr int kTokenSlots = (V::kTokens + kCopyRows - 1) / kCopyRows;
  using Sums = Sum[kRowTiles][kTokenTiles][4];

  QCORE_DEVICE static void quantize(const Params& p) {
    quantize::Quantizer<X> quantizer(p.floats, ptx::shared_base());
    quantizer.find_tensor_scale();
    for (int64_t row = ptx::block_index(); row < p.floats.m; row += ptx::block_count()) {
      quantizer.quantize(row);
    }
    if constexpr (kInteger) {
      const int64_t rows = V::kExperts ? int64_t{p.n} * p.tiles.experts : p.n;
      if (p.find_w_sum) sum_rows({p.weight, rows, p.k, p.find_w_sum});
    }
  }

  QCORE_DEVICE Gemm(const Params& params, int work)
      : p(params), base(ptx::shared_base()), thread(ptx::thread_index()), lane(thread % 32) {
    place_work(work);
  }

  QCORE_DEVICE void place_work(int work) {
    const int tiles = p.tiles.count();
    split = work / tiles;
    place = tile::place_of<V::kExperts>(p.tiles, work % tiles, V::kTokens, GlobalLoad{});
    row0 = place.along * kRows;
    warp_row = thread / 32 % V::kWarpsN * (kRowTiles * 16);
    warp_token = thread / 32 / V::kWarpsN * (kTokenTiles * 8);
  }

  QCORE_DEVICE void run_tile() {
    if (!place.exists()) return;
    begin = split * p.split_chunks;
    const int count = min(p.split_chunks, p.chunks - begin);
    place_copies();
    place_fragments();
    for (int i = 0; i + 1 < V::kStages; ++i) load(i < count, base + stage_at(i));
    uint32_t stage = base;
    for (int i = 0; i < count; ++i) {
      ptx::copy_async_wait<V::kStages - 2>();
      ptx::sync_block();  // the copies of all threads are there; the slot before is free again
      const uint32_t last = base + stage_at(V::kStages - 1);
      load(i + V::kStages - 1 < count, stage == base ? last : stage - stage_at(1));
      compute(stage, begin + i);
      stage = stage == last ? base : stage + stage_at(1);
    }
    ptx::copy_async_wait<0>();
    ptx::sync_block();
    write_sums();
    ptx::sync_block();
    write_tile();
    ptx::sync_block();  // before the next tile's copies
  }

  static constexpr uint32_t stage_at(int i) { return static_cast<uint32_t>(i * V::kStageBytes); }

  // ---- Copies from global to shared memory

  static constexpr uint32_t offset(int row, int piece) {
    return static_cast<uint32_t>(row * kChunk + (piece ^ (row & 7)) * 16);
  }

  QCORE_DEVICE void place_copies() {
    const int row = thread / kPieces, column = begin * kChunk + thread % kPieces * 16;
    weight_from = weight() + static_cast<int64_t>(row0 + row) * p.k + column;
    x_from = p.x + (place.token + row) * p.x_stride + column;
    to = offset(row, thread % kPieces);
    columns_left = p.k - column;
  }

  // Starts the copies of the next chunk, if there is one. An empty group keeps the count of groups.
  QCORE_DEVICE void load(bool exists, uint32_t stage) {
    if (exists) {
      const int row = thread / kPieces;
      QCORE_UNROLL
      for (int s = 0; s < kRows / kCopyRows; ++s) {
        const bool inside = columns_left > 0 && row0 + row + s * kCopyRows < p.n;
        ptx::copy_async_16(stage + to + static_cast<uint32_t>(s * kCopyRows * kChunk),
                           weight_from + static_cast<int64_t>(s) * kCopyRows * p.k,
                           inside ? 16 : 0);
      }
      QCORE_UNROLL
      for (int s = 0; s < kTokenSlots; ++s) {
        if (V::kTokens < kCopyRows && row >= V::kTokens) break;
        const bool inside =
            columns_left > 0 && place.token + row + s * kCopyRows < place.token_end(p.tiles);
        ptx::copy_async_16(
            stage + kWeightBytes + to + static_cast<uint32_t>(s * kCopyRows * kChunk),
            x_from + s * kCopyRows * p.x_stride, inside ? 16 : 0);
      }
      weight_from += kChunk;
      x_from += kChunk;
      columns_left -= kChunk;
    }
    ptx::copy_async_commit();
  }

  // ---- Matrices

  // The lane's addresses for ldmatrix at the first step of 32 columns. Those of another step differ
  // in bits of the piece alone, which the permutation only flips.
  QCORE_DEVICE void place_fragments() {
    a_at = offset(warp_row + lane % 16, lane / 16);
    const int token = kTokenTiles == 1 ? lane % 8 : lane / 16 * 8 + lane % 8;
    const int piece = kTokenTiles == 1 ? lane / 8 : lane / 8 % 2;
    b_at = kWeightBytes + offset(warp_token + token, piece);
  }
  QCORE_DEVICE static uint32_t at_step(uint32_t at, int step) {
    return at ^ static_cast<uint32_t>(step * 32);
  }

  QCORE_DEVICE void compute(uint32_t stage, int chunk) {
    if constexpr (kInteger) {
      multiply(stage, total);
    } else {
      // Scales are asked for early where registers allow.
      float scale[kTokenTiles][2];
      if constexpr (kOverlap > 1) load_scales(chunk, scale);
      Sums sums = {};
      multiply(stage, sums);
      if constexpr (kOverlap == 1) load_scales(chunk, scale);
      QCORE_UNROLL
      for (int r = 0; r < kRowTiles; ++r) {
        QCORE_UNROLL
        for (int t = 0; t < kTokenTiles; ++t) {
          QCORE_UNROLL
          for (int i = 0; i < 4; ++i) {
            total[r][t][i] = ptx::fma(sums[r][t][i], scale[t][i % 2], total[r][t][i]);
          }
        }
      }
    }
  }

  QCORE_DEVICE static void multiply_add(Sum (&d)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2]) {
    if constexpr (kInteger) {
      ptx::mma_16x8x32(d, a, b);
    } else {
      ptx::mma_16x8x32<W, X>(d, a, b);
    }
  }

  // One ldmatrix brings four 8x16 matrices of bytes: of x two steps of 8 tokens if there are no
  // more, else one step of 16 tokens.
  QCORE_DEVICE void multiply(uint32_t stage, Sums& sums) {
    uint32_t b[4];
    QCORE_UNROLL_BY(kOverlap)
    for (int step = 0; step < kSteps; ++step) {
      uint32_t a[kRowTiles][4];
      QCORE_UNROLL
      for (int r = 0; r < kRowTiles; ++r) {
        ptx::ldmatrix_x4(a[r],
                         stage + at_step(a_at, step) + static_cast<uint32_t>(r * 16 * kChunk));
      }
      if constexpr (kTokenTiles == 1) {
        if (step % 2 == 0) ptx::ldmatrix_x4(b, stage + at_step(b_at, step));
        QCORE_UNROLL
        for (int r = 0; r < kRowTiles; ++r) {
          multiply_add(sums[r][0], a[r], {b[step % 2 * 2], b[step % 2 * 2 + 1]});
        }
      } else {
        QCORE_UNROLL
        for (int t = 0; t < kTokenTiles; t += 2) {
          ptx::ldmatrix_x4(b, stage + at_step(b_at, step) + static_cast<uint32_t>(t * 8 * kChunk));
          QCORE_UNROLL
          for (int r = 0; r < kRowTiles; ++r) {
            multiply_add(sums[r][t], a[r], {b[0], b[1]});
            multiply_add(sums[r][t + 1], a[r], {b[2], b[3]});
          }
        }
      }
    }
  }

  // Of the lane's tokens in a chunk; 1 if there are no blocks.
  QCORE_DEVICE void load_scales(int chunk, float (&scale)[kTokenTiles][2]) const {
    const float w =
        p.w_blocks
            ? ptx::load_global(p.w_blocks + static_cast<int64_t>(row0 / kRows) * p.chunks + chunk)
            : 1.0f;
    QCORE_UNROLL
    for (int t = 0; t < kTokenTiles; ++t) {
      QCORE_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int token = place.token + warp_token + t * 8 + fragments::c_element(lane, i).column;
        const bool exists = p.x_blocks && token < place.token_end(p.tiles);
        scale[t][i] =
            exists
                ? w * ptx::load_global(p.x_blocks + static_cast<int64_t>(token) * p.chunks + chunk)
                : 1.0f;
      }
    }
  }

  // ---- The result

  QCORE_DEVICE uint32_t sum_at(int token, int row) const {
    return base + static_cast<uint32_t>((token * V::kSumStride + row) * 4);
  }

  QCORE_DEVICE void write_sums() const {
    QCORE_UNROLL
    for (int r = 0; r < kRowTiles; ++r) {
      QCORE_UNROLL
      for (int t = 0; t < kTokenTiles; ++t) {
        QCORE_UNROLL
        for (int i = 0; i < 4; ++i) {
          const fragments::Element e = fragments::c_element(lane, i);
          ptx::store_shared(sum_at(warp_token + t * 8 + e.column, warp_row + r * 16 + e.row),
                            ptx::float_from_bits(bits_of_sum(total[r][t][i])));
        }
      }
    }
  }

  // Eight columns of one token per thread and round.
  QCORE_DEVICE void write_tile() const {
    constexpr int kEights = kRows / 8;
    QCORE_NO_UNROLL
    for (int index = thread; index < V::kTokens * kEights; index += kThreads) {
      const int token = index / kEights, row = index % kEights * 8;
      if (place.token + token >= place.token_end(p.tiles)) break;
      if (row0 + row >= p.n) continue;
      ptx::Vec16 four[2];
      QCORE_UNROLL
      for (int v = 0; v < 2; ++v)
        four[v] = ptx::load_shared<ptx::Vec16>(sum_at(token, row + v * 4));
      if (p.tiles.splits > 1) {
        const int64_t line = static_cast<int64_t>(split) * p.tiles.m + place.token + token;
        const int64_t to_vector = (line * p.tiles.along * kRows + row0 + row) / 4;
        QCORE_UNROLL
        for (int v = 0; v < 2; ++v) {
          ptx::store_global(static_cast<ptx::Vec16*>(p.partial) + to_vector + v, four[v]);
        }
        continue;
      }
      Sum sum[8];
      QCORE_UNROLL
      for (int j = 0; j < 8; ++j) sum[j] = sum_of_bits<Sum>(four[j / 4].word[j % 4]);
      finish(finish_params(), place.token + token, row0 + row, min(8, p.n - row0 - row), sum);
    }
  }

  // What belongs to the weight's expert.
  QCORE_DEVICE const uint8_t* weight() const {
    return p.weight + static_cast<int64_t>(place.expert) * p.n * p.k;
  }
  QCORE_DEVICE decltype(auto) finish_params() const {
    if constexpr (V::kExperts) {
      return p.finish.of_expert(place.expert);
    } else {
      return (p.finish);
    }
  }

  const Params& p;
  const uint32_t base;  // of shared memory: the slots, later the sums
  const int thread, lane;
  tile::Place<V::kExperts> place;  // of the block
  int split, row0;
  int warp_row, warp_token;  // of the warp, in the block
  int begin;                 // first chunk

  const uint8_t *weight_from, *x_from;
  uint32_t to;
  int columns_left;
  uint32_t a_at, b_at;  // where this lane's rows for ldmatrix lie in a stage
  Sums total = {};
};

}  // namespace qcore::scaled
