// y[M, N] = x[M, K] * weight[N, K] of 8-bit elements on Hopper (sm_90a).
//
// One warpgroup brings tiles of both operands into a ring of stages by the copy engine, 128 bytes
// along K at a time, permuted as the matrix unit wants them; a single thread of it does that, so
// the others give their registers to the warpgroups that multiply. What lies beyond the matrices
// arrives as zeros. Blocks stay and take tiles in turn: the ring runs on, so the next tile's
// operands are on their way while this one is written.
//
// Integers add up in the matrix unit, exactly. FP8 sums of one chunk are brought to fp32 outside of
// it, since it keeps about 14 bits; scales of blocks are those of the chunk and applied there.
//
// With floats for x, the blocks first quantize its rows to the workspace, then meet, then multiply;
// for that all of them must run at the same time.
#pragma once

#include "ptx/bits8.cuh"
#include "ptx/fragments.h"
#include "ptx/hopper.cuh"
#include "quantize/rows.cuh"
#include "scaled/finish.cuh"
#include "scaled/hopper_tile.h"
#include "scaled/row_sums.cuh"
#include "tile/ring.cuh"
#include "tile/schedule.h"

namespace qcore::scaled {

struct HopperParams {
  TensorMap x, weight;  // boxes of Tile::kRows, kColumns rows of one chunk
  int m, n, chunks;
  int row_tiles, column_tiles, splits, split_chunks;
  const float* x_blocks;  // scales [m, chunks] and [ceil(n / 128), chunks], or null
  const float* w_blocks;
  void* partial;  // [splits, m, column_tiles * kColumns] if splits > 1
  FinishParams finish;
  quantize::RowsParams floats;  // what is quantized to x first, if floats.x is not null
  SumRowsParams w_sums;         // to be found before that as well, if w_sums.sums is not null

  // Of kRows rows of x, kColumns of the weight. Made here, and not a parameter, so that the
  // parameters lie side by side as the loop reads them.
  QCORE_DEVICE tile::Tiles tiles() const {
    return {.m = m, .across = row_tiles, .along = column_tiles, .splits = splits};
  }
};

// kBlockScales: both operands have a scale for each chunk.
template <class X, class W, class Tile, bool kBlockScales>
class HopperGemm {
 public:
  using Params = HopperParams;
  static constexpr int kThreads = Tile::kThreads;
  static constexpr int kMinBlocks = 1;

  // Whether the blocks of this launch wait for each other.
  static bool meets_grid(const Params& p) { return p.floats.x != nullptr; }

  QCORE_DEVICE static void run(const Params& p) {
    if constexpr (kQuantizes) {
      if (p.floats.x) quantize(p);
    }
    HopperGemm(p).run_block();
  }

 private:
  using Sum = typename ptx::Accumulator<X>::Type;
  static constexpr bool kInt8 = std::is_same_v<X, ptx::Int8>;
  static constexpr bool kQuantizes = hopper_quantizes(kInt8, Tile::kRows);
  static constexpr int kBlocks = Tile::kBlocks, kColumns = Tile::kColumns;
  static constexpr int kSums = kColumns / 2;  // of a thread in one block of 64 rows
  static_assert(!kInt8 || !kBlockScales);
  // A block scale of the weight is that of a whole tile.
  static_assert(kInt8 || 128 % kColumns == 0);

  QCORE_DEVICE explicit HopperGemm(const Params& params)
      : p(params), ring(ptx::shared_base(), Tile::kStageBytes, Tile::kStages) {}

  struct MeetSome {
    QCORE_DEVICE static void meet() { ptx::sync_named(1, quantize::kThreads); }
  };
  QCORE_DEVICE static void quantize(const Params& p) {
    if (ptx::thread_index() < quantize::kThreads) {
      quantize::Quantizer<X, MeetSome> quantizer(p.floats, ptx::shared_base());
      quantizer.find_tensor_scale();
      for (int64_t row = ptx::block_index(); row < p.floats.m; row += ptx::block_count()) {
        quantizer.quantize(row);
      }
      if constexpr (kInt8) {
        if (p.w_sums.sums) sum_rows(p.w_sums);
      }
      // Copies will overwrite this shared memory.
      ptx::fence_proxy_async();
    }
    // And read that global memory: both who wrote it and who copies it say so.
    ptx::fence_proxy_async_global();
    ptx::sync_grid();
    ptx::fence_proxy_async_global();
  }

  QCORE_DEVICE void run_block() {
    if (ptx::thread_index() == 0) ring.make(Tile::kGroups * 4);
    ptx::sync_block();
    // With one warpgroup to multiply, registers suffice for all.
    if (ptx::thread_index() >= Tile::kGroups * 128) {
      if constexpr (Tile::kGroups > 1) ptx::registers_decrease<40>();
      if (ptx::thread_index() < Tile::kGroups * 128 + 32 && ptx::elect_one()) bring();
    } else {
      if constexpr (Tile::kGroups > 1) ptx::registers_increase<232>();
      multiply();
    }
  }

  // ---- Tiles

  struct Place {
    int row, column, split;
    int first, end;  // chunks
  };
  QCORE_DEVICE Place place(int work) const {
    const int tiles = p.tiles().count(), split = work / tiles;
    const auto at = tile::place_of<false>(p.tiles(), work % tiles, Tile::kRows, GlobalLoad{});
    return {at.token, at.along * kColumns, split, split * p.split_chunks,
            min((split + 1) * p.split_chunks, p.chunks)};
  }
  QCORE_DEVICE int works() const { return p.tiles().works(); }

  // ---- Copies

  QCORE_DEVICE void bring() {
    ptx::prefetch_tensor_map(p.x);
    ptx::prefetch_tensor_map(p.weight);
    for (int work = ptx::block_index(); work < works(); work += ptx::block_count()) {
      const Place at = place(work);
      for (int chunk = at.first; chunk < at.end; ++chunk) {
        ring.start_filling(Tile::kStageBytes);
        const int k = chunk * kHopperChunk;
        ptx::copy_tensor_2d(ring.at(), p.x, k, at.row, ring.full());
        ptx::copy_tensor_2d(ring.at() + Tile::kXBytes, p.weight, k, at.column, ring.full());
        ring.next();
      }
    }
  }

  // ---- The product

  QCORE_DEVICE void multiply() {
    const int thread = ptx::thread_index();
    group_row = thread / 128 * (kBlocks * 64);
    lane = thread % 32;
    warp_row = thread % 128 / 32 * 16;
    for (int work = ptx::block_index(); work < works(); work += ptx::block_count()) {
      const Place at = place(work);
      Sum sums[kBlocks][kSums];
      if constexpr (kInt8) {
        add_integers(at, sums);
      } else {
        add_floats(at, sums);
      }
      write(at, sums);
    }
  }

  // One product of 64 rows with all columns of the present stage.
  QCORE_DEVICE void start(int block, Sum (&d)[kSums], bool accumulate) const {
    const uint32_t rows = static_cast<uint32_t>((group_row + block * 64) * kHopperChunk);
    constexpr uint32_t kEight = 8 * kHopperChunk;  // bytes of 8 rows
    const uint64_t x = ptx::descriptor(Swizzle::bytes128, ring.at() + rows, kEight);
    const uint64_t w = ptx::descriptor(Swizzle::bytes128, ring.at() + Tile::kXBytes, kEight);
    QCORE_UNROLL
    for (uint32_t k = 0; k < kHopperChunk; k += 32) {
      ptx::wgmma<X, W, kColumns>(d, ptx::descriptor_advance(x, k), ptx::descriptor_advance(w, k),
                                 accumulate || k > 0);
    }
  }

  QCORE_DEVICE void own(Sum (&sums)[kBlocks][kSums]) const {
    QCORE_UNROLL
    for (int b = 0; b < kBlocks; ++b) ptx::wgmma_own(sums[b]);
  }

  // The products of one chunk are under way while the next one's start.
  QCORE_DEVICE void add_integers(const Place& at, Sum (&sums)[kBlocks][kSums]) {
    QCORE_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      QCORE_UNROLL
      for (int i = 0; i < kSums; ++i) sums[b][i] = 0;
    }
    own(sums);
    int before = -1;
    for (int chunk = at.first; chunk < at.end; ++chunk) {
      ring.wait_until_full();
      ptx::wgmma_fence();
      QCORE_UNROLL
      for (int b = 0; b < kBlocks; ++b) start(b, sums[b], true);
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();
      if (before >= 0) ring.release(before);
      before = ring.stage();
      ring.next();
    }
    ptx::wgmma_wait<0>();
    own(sums);
    ring.release(before);
  }

  QCORE_DEVICE void add_floats(const Place& at, Sum (&sums)[kBlocks][kSums]) {
    QCORE_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      QCORE_UNROLL
      for (int i = 0; i < kSums; ++i) sums[b][i] = 0;
    }
    Sum partial[kSums] = {};
    float scale[kBlocks][2];
    for (int chunk = at.first; chunk < at.end; ++chunk) {
      if constexpr (kBlockScales) load_scales(at, chunk, scale);
      ring.wait_until_full();
      QCORE_UNROLL
      for (int b = 0; b < kBlocks; ++b) {
        ptx::wgmma_own(partial);
        ptx::wgmma_fence();
        start(b, partial, false);
        ptx::wgmma_commit();
        ptx::wgmma_wait<0>();
        ptx::wgmma_own(partial);
        if (b + 1 == kBlocks) ring.release(ring.stage());
        QCORE_UNROLL
        for (int i = 0; i < kSums; ++i) {
          if constexpr (kBlockScales) {
            sums[b][i] = ptx::fma(partial[i], scale[b][i / 2 % 2], sums[b][i]);
          } else {
            sums[b][i] += partial[i];
          }
        }
      }
      ring.next();
    }
  }

  // Of this thread's two rows in every block, times that of the columns.
  QCORE_DEVICE void load_scales(const Place& at, int chunk, float (&scale)[kBlocks][2]) const {
    const float w =
        ptx::load_global(p.w_blocks + static_cast<int64_t>(at.column / 128) * p.chunks + chunk);
    QCORE_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      QCORE_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int row = row_of(at, b, half);
        const float x =
            row < p.m ? ptx::load_global(p.x_blocks + static_cast<int64_t>(row) * p.chunks + chunk)
                      : 0.0f;
        scale[b][half] = ptx::multiply(x, w);
      }
    }
  }

  QCORE_DEVICE int row_of(const Place& at, int block, int half) const {
    return at.row + group_row + block * 64 + warp_row + lane / 4 + half * 8;
  }

  // ---- The result

  // A thread holds two neighbours of every eight columns of a row, and the three next to it the
  // others. They exchange until each has eight neighbours of every 32 columns.
  //
  // The loops stay loops, or this would be most of the kernel's code: so sums move down to where
  // the body takes them.
  QCORE_DEVICE void write(const Place& at, Sum (&sums)[kBlocks][kSums]) const {
    QCORE_NO_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      // Whole warps go or stay: they exchange.
      if (at.row + group_row + b * 64 + warp_row >= p.m) break;
      QCORE_NO_UNROLL
      for (int part = 0; part < kColumns / 32; ++part) {
        const int column = at.column + part * 32 + lane % 4 * 8;
        QCORE_NO_UNROLL
        for (int half = 0; half < 2; ++half) {
          const int row = row_of(at, b, half);
          Sum eight[8];
          exchange(sums[0], eight);
          if (row < p.m && column < p.n) put(at, row, column, eight);
          QCORE_UNROLL
          for (int i = 0; i < 16; i += 4) {
            sums[0][i] = sums[0][i + 2];
            sums[0][i + 1] = sums[0][i + 3];
          }
        }
        QCORE_UNROLL
        for (int i = 0; i + 16 < kSums; ++i) sums[0][i] = sums[0][i + 16];
      }
      if (b + 1 == kBlocks) break;
      QCORE_UNROLL
      for (int i = 0; i < kSums; ++i) sums[0][i] = sums[kBlocks - 1][i];
    }
  }
  static_assert(kBlocks <= 2);

  // Of the first 32 columns of the first half.
  QCORE_DEVICE void exchange(const Sum (&sums)[kSums], Sum (&eight)[8]) const {
    const bool odd = lane & 1, high = lane & 2;
    Sum four[2][4];  // of the eights 0 or 1, and 2 or 3: this lane's neighbours in pairs
    QCORE_UNROLL
    for (int e = 0; e < 2; ++e) {
      QCORE_UNROLL
      for (int i = 0; i < 2; ++i) {
        const Sum even_sum = sums[e * 8 + i], odd_sum = sums[e * 8 + 4 + i];
        const Sum other = ptx::shuffle_xor(odd ? even_sum : odd_sum, 1);
        const Sum mine = odd ? odd_sum : even_sum;
        four[e][i] = odd ? other : mine;
        four[e][2 + i] = odd ? mine : other;
      }
    }
    QCORE_UNROLL
    for (int i = 0; i < 4; ++i) {
      const Sum other = ptx::shuffle_xor(high ? four[0][i] : four[1][i], 2);
      const Sum mine = high ? four[1][i] : four[0][i];
      eight[i] = high ? other : mine;
      eight[4 + i] = high ? mine : other;
    }
  }

  QCORE_DEVICE void put(const Place& at, int row, int column, const Sum (&eight)[8]) const {
    if (p.splits == 1) {
      finish(p.finish, row, column, min(8, p.n - column), eight);
      return;
    }
    const int64_t width = static_cast<int64_t>(p.column_tiles) * kColumns;
    ptx::Vec16* const to = static_cast<ptx::Vec16*>(p.partial) +
                           ((static_cast<int64_t>(at.split) * p.m + row) * width + column) / 4;
    QCORE_UNROLL
    for (int v = 0; v < 2; ++v) {
      ptx::Vec16 four;
      QCORE_UNROLL
      for (int j = 0; j < 4; ++j) four.word[j] = bits_of_sum(eight[v * 4 + j]);
      ptx::store_global(to + v, four);
    }
  }

  const Params& p;
  Ring ring;
  int group_row, warp_row, lane;
};

}  // namespace qcore::scaled
