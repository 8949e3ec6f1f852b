// y[M, N] = x[M, K] * W[N, K]^T for a weight in the layout fragment16.
//
// Products of codes are summed in fp32 over (a part of) a group; then the sum, not the weights, is
// multiplied by the group's scale: fewer instructions per weight, and no rounding of the weights at
// all. Weights go to the one lane that needs them, 16 bytes a lane, never touched by another
// thread.
#pragma once

#include <type_traits>

#include "tile/tile.cuh"
#include "w4a16/dequant.cuh"
#include "w4a16/layout.h"

namespace qcore::w4a16 {

using tile::kWarpRows, tile::kWarpTiles;

struct GemmParams : tile::TileParams {
  const void* qweight;
  const void* scales;
  const uint8_t* zeros;  // null if symmetric
  DType scale_dtype;
  int scale_size;  // of one, in bytes
  int set_shift;   // log2 of the lanes that bring 32 scales
  int center;      // the zero point of a symmetric weight
  dequant::FloatCodes floats;
  int groups, group_halves;
  int halves;  // along the padded K
  int panels;  // of one expert
};

template <class T, class V>
class Gemm : public tile::Tile<Gemm<T, V>, T, V, GemmParams> {
  using Base = tile::Tile<Gemm, T, V, GemmParams>;
  friend Base;
  using Codes = dequant::Codes<T, V::kBits>;
  using Base::kTokenTiles, Base::kRowPieces, Base::for_tiles;
  using Base::multiply_add, Base::fragment_of, Base::piece;
  using Base::p, Base::thread, Base::lane, Base::place, Base::row0, Base::warp_n, Base::begin,
      Base::total;
  static constexpr int kChunkHalves = chunk_halves(V::kBits);
  static constexpr int kSets = kChunkHalves / V::kFlushHalves;  // of scales and zeros in a chunk
  static constexpr int kHalvesPerBlock = kChunkHalves / kTileBlocks;
  static constexpr int kStepsPerHalf = kHalfColumns / kStepColumns;
  // Weights are read a block at a time, except where registers are short: 32 tokens and short sums.
  static constexpr bool kNarrow =
      kTokenTiles == 4 && V::kBits == 4 && V::kFlushHalves < kChunkHalves;
  using Words = std::conditional_t<kNarrow, ptx::Vec8, ptx::Vec16>;
  static constexpr int kWordsHalves = kNarrow ? 1 : kHalvesPerBlock;
  // What is computed at a time: whole sets and whole reads.
  static constexpr int kRoundHalves =
      V::kFlushHalves > kWordsHalves ? V::kFlushHalves : kWordsHalves;
  static constexpr int kRoundSets = kRoundHalves / V::kFlushHalves;
  static constexpr int kWarpBytes = kWarpTiles * kTileBytes;  // of one chunk

  QCORE_DEVICE explicit Gemm(const GemmParams& params) : Base(params) {}

  // ---- Copies

  QCORE_DEVICE void place_weights() {
    const int row = row0 + warp_n * kWarpRows;
    const int64_t panel = static_cast<int64_t>(place.expert) * p.panels + row / kPanelRows;
    const int64_t half_panel = row % kPanelRows / kWarpRows;
    weight_from = static_cast<uint32_t>(
        ((panel * p.chunks + begin) * kTiles + half_panel * kWarpTiles) * (kTileBytes / 16) + lane);
    weight_to = static_cast<uint32_t>(thread / 32 * kWarpBytes + lane * kLaneBytes);
    place_parameter_copies(panel, half_panel);
    const uint32_t center = static_cast<uint32_t>(p.center);
    for_tiles([&](int tile) { offsets[tile] = Codes::offsets(center, center); });
  }

  // A set of scales, for 32 rows, takes 4 lanes, 8 if they are fp32. The first two of them also
  // bring the zero points. To keep registers free, only the source of the scales is remembered.
  QCORE_DEVICE int lanes_per_set() const { return 1 << p.set_shift; }

  QCORE_DEVICE void place_parameter_copies(int64_t panel, int64_t half_panel) {
    const int set = lane >> p.set_shift, part = lane & (lanes_per_set() - 1);
    const int half = begin * kChunkHalves + set * V::kFlushHalves;
    parameters_left = p.halves - half;
    brings_scales = set < kSets;
    group_position = half % p.group_halves;
    const int64_t row32 = (panel * p.groups + half / p.group_halves) * 2 + half_panel;
    scale_from = static_cast<uint32_t>(row32 * lanes_per_set() + part);
    parameters =
        static_cast<uint32_t>(V::kWeightBytes + V::kActivationBytes +
                              thread / 32 * V::parameter_bytes(p.scale_dtype, p.zeros != nullptr));
  }

  QCORE_DEVICE void load_weights(uint32_t stage) {
    const char* from = piece(p.qweight, weight_from);
    QCORE_UNROLL
    for (int block = 0; block < kWarpTiles * kTileBlocks; ++block) {
      ptx::copy_async_16(stage + weight_to + static_cast<uint32_t>(block * kBlockBytes),
                         from + block * kBlockBytes, 16);
    }
    weight_from += kTiles * kTileBytes / 16;
    load_parameters(stage);
  }

  // Beyond the end of K the scales are zero, as the activations are.
  QCORE_DEVICE void load_parameters(uint32_t stage) {
    if (brings_scales) {
      const int bytes = parameters_left > 0 ? 16 : 0;
      const uint32_t to = stage + parameters;
      ptx::copy_async_16(to + static_cast<uint32_t>(lane * 16), piece(p.scales, scale_from), bytes);
      if (p.zeros) {
        const uint32_t set = static_cast<uint32_t>(lane >> p.set_shift);
        const uint32_t part = static_cast<uint32_t>(lane & (lanes_per_set() - 1));
        if (part < 2) {
          ptx::copy_async_16(to + static_cast<uint32_t>(kSets * kWarpRows * p.scale_size) +
                                 set * kWarpRows + part * 16,
                             piece(p.zeros, (scale_from >> p.set_shift) * 2 + part), bytes);
        }
      }
    }
    parameters_left -= kChunkHalves;
    group_position += kChunkHalves;
    while (group_position >= p.group_halves) {
      group_position -= p.group_halves;
      scale_from += static_cast<uint32_t>(2 * lanes_per_set());
    }
  }

  // ---- The product

  // With 8 bits the codes may be floats.
  QCORE_DEVICE void compute(uint32_t stage) {
    if constexpr (V::kBits == 8) {
      if (p.floats.any()) return compute_codes<true>(stage);
    }
    compute_codes<false>(stage);
  }

  template <bool kFloats>
  QCORE_DEVICE void compute_codes(uint32_t stage) {
    QCORE_NO_UNROLL
    for (int round = 0; round < kChunkHalves / kRoundHalves; ++round) {
      Words words[kWarpTiles];
      QCORE_UNROLL
      for (int s = 0; s < kRoundSets; ++s) {
        const int set = round * kRoundSets + s;
        if (p.zeros) load_zeros(stage, set);
        float partial[kWarpTiles][kTokenTiles][4] = {};
        QCORE_UNROLL
        for (int i = 0; i < V::kFlushHalves; ++i) {
          const int half = s * V::kFlushHalves + i;  // of the round
          const int first = round * kRoundHalves;
          if (half % kWordsHalves == 0) load_words(stage, first + half, words);
          multiply<kFloats>(stage, first, half, words, partial);
        }
        flush(stage, set, partial);
      }
    }
  }

  // One ldmatrix brings four 8x8 matrices: two steps of 8 tokens if there are no more, else one
  // step of 16 tokens, so that few fragments of the weight are live at a time.
  template <bool kFloats>
  QCORE_DEVICE void multiply(uint32_t stage, int first_half, int half,
                             const Words (&words)[kWarpTiles],
                             float (&partial)[kWarpTiles][kTokenTiles][4]) {
    uint32_t a[kWarpTiles][4], b[4];
    if constexpr (kTokenTiles == 1) {
      ptx::ldmatrix_x4(b, fragment_of(stage, (first_half + half) * kStepsPerHalf));
    }
    QCORE_UNROLL
    for (int s = 0; s < kStepsPerHalf; ++s) {
      const int step = half * kStepsPerHalf + s;
      for_tiles([&](int tile) {
        constexpr int kWords = sizeof(Words) / 4;
        const uint32_t* word = &words[tile].word[step * Codes::kWords % kWords];
        if constexpr (kFloats) {
          p.floats.template dequantize<T>(word, a[tile]);
        } else {
          Codes::dequantize(word, offsets[tile], a[tile]);
        }
      });
      if constexpr (kTokenTiles == 1) {
        multiply_add(partial, 0, a, {b[2 * s], b[2 * s + 1]});
      } else {
        const uint32_t from = fragment_of(stage, first_half * kStepsPerHalf + step);
        QCORE_UNROLL
        for (int t = 0; t < kTokenTiles; t += 2) {
          ptx::ldmatrix_x4(b, from + static_cast<uint32_t>(t * 8 * kRowPieces * 16));
          multiply_add(partial, t, a, {b[0], b[1]});
          multiply_add(partial, t + 1, a, {b[2], b[3]});
        }
      }
    }
  }

  QCORE_DEVICE void load_words(uint32_t stage, int half, Words (&words)[kWarpTiles]) const {
    const int inside = half % kHalvesPerBlock * (kLaneBytes / kHalvesPerBlock);
    for_tiles([&](int tile) {
      words[tile] = ptx::load_shared<Words>(
          stage + weight_to +
          static_cast<uint32_t>(tile * kTileBytes + half / kHalvesPerBlock * kBlockBytes + inside));
    });
  }

  // A lane's rows of a tile are r and r + 8, r = lane / 4, whose parameters are neighbours.
  QCORE_DEVICE void load_zeros(uint32_t stage, int set) {
    const uint32_t from =
        stage + parameters +
        static_cast<uint32_t>(kSets * kWarpRows * p.scale_size + set * kWarpRows + lane / 4 * 2);
    for_tiles([&](int tile) {
      const uint32_t pair =
          ptx::load_shared<uint16_t>(from + static_cast<uint32_t>(tile * kTileRows));
      offsets[tile] = Codes::offsets(pair & 0xff, pair >> 8);
    });
  }

  QCORE_DEVICE void flush(uint32_t stage, int set,
                          const float (&partial)[kWarpTiles][kTokenTiles][4]) {
    const uint32_t from = stage + parameters;
    for_tiles([&](int tile) {
      const int first = set * kWarpRows + tile * kTileRows + lane / 4 * 2;
      const Pair scale =
          load_shared_pair(p.scale_dtype, from + static_cast<uint32_t>(first * p.scale_size));
      QCORE_UNROLL
      for (int t = 0; t < kTokenTiles; ++t) {
        QCORE_UNROLL
        for (int i = 0; i < 4; ++i) {
          total[tile][t][i] += (i < 2 ? scale.first : scale.second) * partial[tile][t][i];
        }
      }
    });
  }

  uint32_t weight_from, weight_to;
  bool brings_scales;   // this lane, for one set
  int parameters_left;  // halves of K from that set on
  int group_position;   // of that set in its group
  uint32_t scale_from;
  uint32_t parameters;  // where the warp's lie in a stage

  dequant::Offsets offsets[kWarpTiles];
};

}  // namespace qcore::w4a16
