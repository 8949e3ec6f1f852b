// y[M, N] = x[M, K] * W[N, K]^T on Hopper (sm_90a), for many tokens, from the layout fragment16.
//
// The warpgroup's matrix unit takes 64 rows times 16 columns of A from registers: four tiles of
// mma.m16n8k16 one above the other, a warp each. So a panel of the packed weight is operand A as it
// is, decoded as in gemm.cuh by the one thread that holds it, and no other layout is needed.
// Activations are operand B, in shared memory, permuted by the copy engine as the matrix unit wants
// them.
//
// One thread of a third warpgroup starts all copies: activations, weights, scales, zero points. The
// other two multiply; while the products of one are under way, the other one decodes. Within a
// warpgroup the next columns are read and decoded while the present ones are multiplied, also from
// one stage of the ring to the next.
//
// As in gemm.cuh products of codes are summed over (a part of) a group, and the sum is multiplied
// by the scale: no weight is rounded.
//
// Blocks stay, and do what Segments says: whole tiles, then a length of the tiles that several
// blocks share. Sums of a shared tile are added in the order of K afterwards (hopper_sums.cuh);
// nothing depends on which block ran first.
#pragma once

#include "tile/ring.cuh"
#include "w4a16/dequant.cuh"
#include "w4a16/hopper_sums.cuh"

namespace qcore::w4a16 {

struct HopperParams {
  TensorMap x;       // boxes of kTokens rows, kSliceColumns wide
  TensorMap weight;  // words [panels, tiles along K, 256]; boxes of kPanels and kPanelTiles
  TensorMap scales;  // [panels, groups, kPanelRows]; boxes of kPanels and one group
  TensorMap zeros;   // likewise, if has_zeros
  tile::Tiles tiles;
  tile::Split split;
  int center;  // the zero point of a symmetric weight
  bool has_zeros;
  int flush_shift;  // log2 of the halves of K between two scales
  int group_halves;
  int stages;
  uint32_t stage_bytes, copied_bytes;
  DType scale_dtype;
  int scale_size;                          // of one, in bytes
  alignas(16) dequant::FloatCodes floats;  // so that the loop reads them at once
  SharedSums shared_sums;
  HopperOutput out;
};

template <class T, class V>
class HopperGemm {
 public:
  using Params = HopperParams;
  static constexpr int kThreads = V::kThreads;
  static constexpr int kMinBlocks = 1;

  QCORE_DEVICE static void run(const Params& p) { HopperGemm(p).run_block(); }

 private:
  using Codes = dequant::Codes<T, V::kBits>;
  static constexpr int kBlocks = V::kBlocks, kTokens = V::kTokens;
  static constexpr int kMultiplying = V::kGroups * 128;  // threads
  static constexpr int kSums = kTokens / 2;              // of a thread in one panel
  // Columns that are decoded at a time, in steps, while the ones before are multiplied. Where
  // registers are short, one step.
  static constexpr int kPart = kBlocks * kTokens >= 256 ? 1 : 2;
  static constexpr int kHalfParts = kHalfColumns / kStepColumns / kPart;
  static constexpr int kPanelParts = kHopperHalves * kHalfParts;  // of a panel in one stage
  static constexpr int kParts = kBlocks * kPanelParts;
  static constexpr int kBlockSteps = V::kBits == 4 ? 4 : 2;  // of 512 bytes of a tile

  QCORE_DEVICE explicit HopperGemm(const Params& params)
      : p(params), ring(ptx::shared_base(), params.stage_bytes, params.stages) {}

  QCORE_DEVICE void run_block() {
    const int thread = ptx::thread_index();
    if (thread == 0) ring.make(kMultiplying / 32);
    ptx::sync_block();
    if (thread >= kMultiplying) {
      ptx::registers_decrease<40>();
      if (thread < kMultiplying + 32 && ptx::elect_one()) bring();
    } else {
      ptx::registers_increase<232>();
      multiply();
    }
  }

  struct Place {
    int panel, token;  // the first ones
  };
  QCORE_DEVICE Place place(int tile) const {
    const auto at = tile::place_of<false>(p.tiles, tile, kTokens, GlobalLoad{});
    return {at.along * V::kPanels, at.token};
  }

  // ---- Copies

  QCORE_DEVICE void bring() {
    ptx::prefetch_tensor_map(p.x);
    ptx::prefetch_tensor_map(p.weight);
    ptx::prefetch_tensor_map(p.scales);
    if (p.has_zeros) ptx::prefetch_tensor_map(p.zeros);
    tile::Segments segments(p.split, ptx::block_index());
    for (tile::Segment segment; segments.next(segment);) {
      const Place at = place(segment.tile);
      const int half = segment.first * kHopperHalves;
      Group group{half / p.group_halves, half % p.group_halves};
      for (int chunk = segment.first; chunk < segment.end; ++chunk) {
        ring.start_filling(p.copied_bytes);
        bring_chunk(at, chunk, group);
        ring.next();
      }
    }
  }

  // Of the set that comes next: its group, and how many halves of that were before.
  struct Group {
    int index, position;
  };

  QCORE_DEVICE void bring_chunk(const Place& at, int chunk, Group& group) const {
    ptx::SharedAddress to = ring.at();
    QCORE_UNROLL
    for (int column = 0; column < kHopperColumns; column += V::kSliceColumns) {
      ptx::copy_tensor_2d(to, p.x, chunk * kHopperColumns + column, at.token, ring.full());
      to += V::kSliceBytes;
    }
    ptx::copy_tensor_3d(to, p.weight, 0, chunk * V::kPanelTiles, at.panel, ring.full());
    to += V::kWeightBytes;
    // Groups that do not exist are beyond the tensor: their scales arrive as zeros.
    const auto scale_bytes = static_cast<uint32_t>(V::kPanels * kPanelRows * p.scale_size);
    for (int half = 0; half < kHopperHalves; half += 1 << p.flush_shift) {
      ptx::copy_tensor_3d(to, p.scales, 0, group.index, at.panel, ring.full());
      to += scale_bytes;
      if (p.has_zeros) {
        ptx::copy_tensor_3d(to, p.zeros, 0, group.index, at.panel, ring.full());
        to += V::zero_bytes(true);
      }
      group.position += 1 << p.flush_shift;
      if (group.position >= p.group_halves) {
        group.position -= p.group_halves;
        ++group.index;
      }
    }
  }

  // ---- The product

  QCORE_DEVICE void multiply() {
    place_thread();
    const auto center = static_cast<uint32_t>(p.center);
    offsets = Codes::offsets(center, center);
    float partial[kSums] = {};
    tile::Segments segments(p.split, ptx::block_index());
    for (tile::Segment segment; segments.next(segment);) {
      float total[kBlocks][kSums];
      QCORE_UNROLL
      for (int b = 0; b < kBlocks; ++b) {
        QCORE_UNROLL
        for (int i = 0; i < kSums; ++i) total[b][i] = 0;
      }
      ring.wait_until_full();
      fetch(ring.at(), 0);
      uint32_t a[2][kPart][4];
      decode(0, a[0]);
      for (int chunk = segment.first; chunk < segment.end; ++chunk) {
        compute(chunk + 1 < segment.end, a, partial, total);
      }
      write(segment, total);
    }
  }

  QCORE_DEVICE void place_thread() {
    lane = ptx::thread_index() % 32;
    warp = ptx::thread_index() / 32 % 4;
    panel0 = ptx::thread_index() / 128 * kBlocks;
    // Kept: in the loop they would be computed anew.
    words_at = ptx::keep(static_cast<uint32_t>(V::kXBytes + panel0 * V::kPanelBytes +
                                               warp * kTileBytes + lane * kLaneBytes));
    // A lane's rows of its tile are r and r + 8, r = lane / 4, whose parameters are neighbours.
    const int parameter = panel0 * kPanelRows + warp * kTileRows + lane / 4 * 2;
    constexpr int kSetsAt = V::kXBytes + V::kWeightBytes;
    scale_at = ptx::keep(static_cast<uint32_t>(kSetsAt + parameter * p.scale_size));
    zero_at = ptx::keep(
        static_cast<uint32_t>(kSetsAt + V::kPanels * kPanelRows * p.scale_size + parameter));
  }

  // One stage: the panels one after the other, the parts of each along K. Part 0 is decoded, and
  // with `more` that of the next stage will be.
  QCORE_DEVICE void compute(bool more, uint32_t (&a)[2][kPart][4], float (&partial)[kSums],
                            float (&total)[kBlocks][kSums]) {
    static_assert(kParts % 2 == 0);
    const int used = ring.stage();
    const uint32_t stage = ring.at();
    const uint64_t x = ptx::descriptor(Swizzle::bytes128, stage, 8 * V::kSliceColumns * 2);
    QCORE_UNROLL
    for (int i = 0; i < kParts; ++i) {
      const int block = i / kPanelParts, part = i % kPanelParts;
      const bool begins = begins_set(part), ends = begins_set(part + 1);
      if (begins) ptx::wgmma_own(partial);
      ptx::wgmma_fence();
      QCORE_UNROLL
      for (int s = 0; s < kPart; ++s) {
        const int step = part * kPart + s;
        constexpr int kSliceSteps = V::kSliceColumns / kStepColumns;
        const auto from = static_cast<uint32_t>(step / kSliceSteps * V::kSliceBytes +
                                                step % kSliceSteps * kStepColumns * 2);
        ptx::wgmma<T, T, kTokens>(partial, a[i % 2][s], ptx::descriptor_advance(x, from),
                                  !begins || s > 0);
      }
      ptx::wgmma_commit();
      // What is read from shared memory is on its way while all wait for the products.
      if (i + 1 < kParts) {
        fetch(stage, i + 1);
      } else {
        ring.next();
        if (more) {
          ring.wait_until_full();
          fetch(ring.at(), 0);
        }
      }
      Pair scale{};
      if (ends) {
        scale = load_shared_pair(p.scale_dtype,
                                 stage + scale_at + set_offset(part) +
                                     static_cast<uint32_t>(block * kPanelRows * p.scale_size));
      }
      ptx::wgmma_wait<1>();  // the products before have read what is decoded over
      decode((i + 1) % kParts, a[(i + 1) % 2]);
      if (ends) {
        ptx::wgmma_wait<0>();
        ptx::wgmma_own(partial);
        QCORE_UNROLL
        for (int k = 0; k < kSums; ++k) {
          total[block][k] += (k & 2 ? scale.second : scale.first) * partial[k];
        }
      }
    }
    ring.release(used);
  }

  // A stage begins and ends with a set.
  QCORE_DEVICE bool begins_set(int part) const {
    return part % kHalfParts == 0 &&
           (part == kPanelParts || (part / kHalfParts & ((1 << p.flush_shift) - 1)) == 0);
  }
  QCORE_DEVICE uint32_t set_offset(int part) const {
    const int set_bytes = V::kPanels * kPanelRows * (p.scale_size + (p.has_zeros ? 1 : 0));
    return static_cast<uint32_t>((part / kHalfParts >> p.flush_shift) * set_bytes);
  }

  // What part i needs beside the part before it: words, one block of them for several parts, and
  // the zero points of a new set.
  QCORE_DEVICE void fetch(uint32_t stage, int i) {
    const int block = i / kPanelParts, part = i % kPanelParts;
    if (part * kPart % kBlockSteps == 0) {
      const int along = part * kPart / kBlockSteps;
      words = ptx::load_shared<ptx::Vec16>(
          stage + words_at +
          static_cast<uint32_t>(block * V::kPanelBytes +
                                along / kTileBlocks * (kTiles * kTileBytes) +
                                along % kTileBlocks * kBlockBytes));
    }
    if (p.has_zeros && begins_set(part)) {
      const uint32_t pair = ptx::load_shared<uint16_t>(stage + zero_at + set_offset(part) +
                                                       static_cast<uint32_t>(block * kPanelRows));
      offsets = Codes::offsets(pair & 0xff, pair >> 8);
    }
  }

  QCORE_DEVICE void decode(int i, uint32_t (&a)[kPart][4]) const {
    const int part = i % kPanelParts;
    QCORE_UNROLL
    for (int s = 0; s < kPart; ++s) {
      const uint32_t* word = &words.word[(part * kPart + s) % kBlockSteps * Codes::kWords];
      if constexpr (V::kFloats) {
        p.floats.template dequantize<T>(word, a[s]);
      } else {
        Codes::dequantize(word, offsets, a[s]);
      }
    }
  }

  // ---- The result

  // The loops stay loops, or this would be most of the kernel's code: so sums move down to where
  // the body takes them.
  QCORE_DEVICE void write(const tile::Segment& segment, float (&total)[kBlocks][kSums]) const {
    if (!segment.whole()) return write_shared(segment.slot, total);
    const Place at = place(segment.tile);
    const int row = (at.panel + panel0) * kPanelRows + warp * kTileRows;
    const uint32_t corner =
        ring.end() + static_cast<uint32_t>(ptx::thread_index() / 32 * kStagedBytes);
    QCORE_NO_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      QCORE_NO_UNROLL
      for (int token = 0; token < kTokens; token += kStagedTokens) {
        p.out.template turn_over<T>(corner, total[0], at.token + token, row + b * kPanelRows);
        QCORE_UNROLL
        for (int i = 0; i + kStagedSums < kSums; ++i) total[0][i] = total[0][i + kStagedSums];
      }
      if (b + 1 == kBlocks) break;
      QCORE_UNROLL
      for (int i = 0; i < kSums; ++i) total[0][i] = total[kBlocks - 1][i];
    }
  }
  static_assert(kBlocks <= 2);

  QCORE_DEVICE void write_shared(int slot, const float (&total)[kBlocks][kSums]) const {
    ptx::Vec16* const to = p.shared_sums.at(slot, panel0, 0);
    QCORE_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      QCORE_UNROLL
      for (int quad = 0; quad < kSums / 4; ++quad) {
        ptx::Vec16 four;
        QCORE_UNROLL
        for (int j = 0; j < 4; ++j) four.word[j] = ptx::bits_of(total[b][quad * 4 + j]);
        ptx::store_global(to + (b * (kSums / 4) + quad) * SharedSums::kThreads, four);
      }
    }
  }

  const Params& p;
  Ring ring;
  int lane, warp, panel0;
  uint32_t words_at, scale_at, zero_at;  // this lane's first ones in a stage
  ptx::Vec16 words;
  dequant::Offsets offsets;
};

}  // namespace qcore::w4a16
