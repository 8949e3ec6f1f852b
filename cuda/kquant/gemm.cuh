// y[M, N] = x[M, K] * W[N, K]^T for a weight in blocks of GGUF, packed as fragment16_blocks.
//
// Codes become exact integers in registers and are multiplied as such. After every group its sum,
// not the weights, is multiplied by d * (integer of the group), which fp32 holds exactly. A minimum
// belongs to all codes of a group alike, so it multiplies the sum of the group's activations; that
// sum is one more product, with a matrix of ones, whose rows are all the same.
#pragma once

#include <type_traits>

#include "kquant/codes.cuh"
#include "kquant/variant.h"
#include "tile/tile.cuh"

namespace qcore::kquant {

struct GemmParams : tile::TileParams {
  const void* weight;
  // In pieces of 16 bytes: a chunk of 32 rows, a superblock of them, what a warp copies, and where
  // in a superblock what it copies ends.
  uint32_t chunk_pieces, super_pieces, staged_pieces, staged_end;
  int super_shift;  // log2 of the chunks of a superblock
  int supers;       // along K
  bool has_scales;  // groups have integers
  DType d_dtype;
  uint32_t halves, halves_step;  // bytes: where they lie in what is copied, and one group further
  uint32_t table[8];             // for codes that name a value: low bytes of 16, then high bytes
  uint32_t expert_pieces;        // from one expert to the next
};

template <class T, class V>
class Gemm : public tile::Tile<Gemm<T, V>, T, V, GemmParams> {
  using Base = tile::Tile<Gemm, T, V, GemmParams>;
  friend Base;
  using F = typename V::Family;
  using Codes = BlockCodes<T, F>;
  using Base::kTokenTiles, Base::for_tiles, Base::p, Base::lane, Base::total;
  static constexpr int kWarpTiles = tile::kWarpTiles;
  static constexpr Traits kTraits = F::traits(256);
  static constexpr int kFlushSteps = std::min(F::kGroup, kSpanColumns) / kStepColumns;
  static constexpr int kCopies = (V::kWarpBytes / 16 + 31) / 32;  // of 16 bytes by a lane
  // Spans that are computed side by side, where registers are not short.
  static constexpr int kTogether = kTokenTiles == 1 ? 2 : 1;
  static constexpr uint32_t kOne = twice(Number<T>::bits(1));

  QCORE_DEVICE explicit Gemm(const GemmParams& params) : Base(params) {}

  // ---- Copies

  QCORE_DEVICE void place_weights() {
    const int panel = (this->row0 + this->warp_n * kPanelRows) / kPanelRows;
    panel_from = static_cast<uint32_t>(panel * p.supers) * p.super_pieces +
                 static_cast<uint32_t>(this->place.expert) * p.expert_pieces;
    chunk = static_cast<uint32_t>(this->begin);
    warp = static_cast<uint32_t>(this->thread / 32 * V::kWarpBytes);
  }

  QCORE_DEVICE void load_weights(uint32_t stage) {
    const uint32_t super = chunk >> p.super_shift;
    const uint32_t from = panel_from + super * p.super_pieces;
    const uint32_t codes = from + (chunk - (super << p.super_shift)) * p.chunk_pieces;
    const uint32_t tail = from + p.staged_end - p.staged_pieces;
    QCORE_UNROLL
    for (int copy = 0; copy < kCopies; ++copy) {
      const uint32_t index = static_cast<uint32_t>(copy * 32 + lane);
      const uint32_t to = stage + warp + index * 16;
      if ((copy + 1) * 512 <= kTraits.code_bytes()) {
        ptx::copy_async_16(to, this->piece(p.weight, codes + index), 16);
      } else if (index < p.staged_pieces) {
        ptx::copy_async_16(
            to, this->piece(p.weight, (index < p.chunk_pieces ? codes : tail) + index), 16);
      }
    }
    ++chunk;
  }

  // ---- The product

  QCORE_DEVICE void compute(uint32_t stage) {
    QCORE_UNROLL_BY(kTogether)
    for (int span = 0; span < V::kChunkColumns / kSpanColumns; ++span) {
      const Words words = load_words(stage, span);
      QCORE_UNROLL
      for (int first = 0; first < kSpanSteps; first += kFlushSteps) {
        float partial[kWarpTiles][kTokenTiles][4] = {};
        QCORE_UNROLL
        for (int step = first; step < first + kFlushSteps; ++step) {
          uint32_t a[kWarpTiles][4];
          for_tiles([&](int tile) {
            Codes::dequantize(words.low, words.high, tile, step, p.table, a[tile]);
          });
          QCORE_UNROLL
          for (int t = 0; t < kTokenTiles; t += kPair) {
            uint32_t b[kPair][2];
            load_activations_of(stage, span, step, t, words, b);
            QCORE_UNROLL
            for (int i = 0; i < kPair; ++i) this->multiply_add(partial, t + i, a, b[i]);
          }
        }
        flush(stage, span, first, words, partial);
      }
    }
  }

  // The lane's words of a span.
  struct Words {
    uint32_t low[F::kLowBits];
    uint32_t high[F::kHighBits > 0 ? F::kHighBits : 1];
    uint32_t activations[4];  // of 8 tokens
  };

  // A plane of kCount bits.
  template <int kCount>
  QCORE_DEVICE void load_plane(uint32_t from, uint32_t* to) const {
    constexpr int kVector = std::min(4, kCount);
    using Vector = std::conditional_t<kVector == 4, ptx::Vec16,
                                      std::conditional_t<kVector == 2, ptx::Vec8, uint32_t>>;
    QCORE_UNROLL
    for (int i = 0; i < kCount; i += kVector) {
      const auto vector =
          ptx::load_shared<Vector>(from + static_cast<uint32_t>(word_offset(kCount, i, lane)));
      if constexpr (kVector == 1) {
        to[i] = vector;
      } else {
        QCORE_UNROLL
        for (int j = 0; j < kVector; ++j) to[i + j] = vector.word[j];
      }
    }
  }

  QCORE_DEVICE Words load_words(uint32_t stage, int span) const {
    Words words;
    const uint32_t codes = stage + warp + static_cast<uint32_t>(span * kTraits.span_bytes());
    load_plane<F::kLowBits>(codes, words.low);
    if constexpr (F::kHighBits > 0) {
      load_plane<F::kHighBits>(codes + kTraits.plane_bytes(F::kLowBits), words.high);
    }
    if constexpr (kTokenTiles == 1) {
      ptx::ldmatrix_x4(words.activations, this->fragment_of(stage, span * kSpanSteps));
    }
    return words;
  }

  // Tokens of 8 that one ldmatrix brings: two of one step, or one of two steps.
  static constexpr int kPair = kTokenTiles == 1 ? 1 : 2;

  QCORE_DEVICE void load_activations_of(uint32_t stage, int span, int step, int t,
                                        const Words& words, uint32_t (&b)[kPair][2]) const {
    if constexpr (kTokenTiles == 1) {
      QCORE_UNROLL
      for (int i = 0; i < 2; ++i) b[0][i] = words.activations[step * 2 + i];
    } else {
      uint32_t four[4];
      ptx::ldmatrix_x4(four, this->fragment_of(stage, span * kSpanSteps + step) +
                                 static_cast<uint32_t>(t * 8 * Base::kRowPieces * 16));
      QCORE_UNROLL
      for (int i = 0; i < 4; ++i) b[i / 2][i % 2] = four[i];
    }
  }

  // ---- Scales. A lane's rows of a tile are r and r + 8, r = lane / 4, whose numbers are
  // neighbours.

  QCORE_DEVICE Pair halves(uint32_t bits) const {
    if (F::kTable && p.d_dtype == DType::bf16) {
      return {ptx::to_float<Bfloat>(bits & 0xffff), ptx::to_float<Bfloat>(bits >> 16)};
    }
    return {ptx::to_float<Half>(bits & 0xffff), ptx::to_float<Half>(bits >> 16)};
  }

  // a *= the bytes at positions kFirst and kFirst + 1 of a word, less kZero.
  template <int kFirst, int kZero>
  QCORE_DEVICE static void multiply_by_bytes(Pair& a, uint32_t word) {
    constexpr uint32_t kMagic = 0x4b000000u;  // 2^23
    constexpr float kOffset = 0x1p23f + kZero;
    a.first *= ptx::float_from_bits(ptx::permute_bytes<0x7650 + kFirst>(word, kMagic)) - kOffset;
    a.second *= ptx::float_from_bits(ptx::permute_bytes<0x7651 + kFirst>(word, kMagic)) - kOffset;
  }

  QCORE_DEVICE void load_scales(uint32_t from, int group, int tile, Pair& scale, Pair& min) const {
    const int pair = tile * 8 + lane / 4;
    const uint32_t at = from + p.halves + static_cast<uint32_t>(group) * p.halves_step;
    if constexpr (F::kHasMin) {
      const auto both = ptx::load_shared<ptx::Vec8>(at + static_cast<uint32_t>(pair * 8));
      scale = halves(both.word[0]);
      min = halves(both.word[1]);
    } else {
      scale = halves(ptx::load_shared<uint32_t>(at + static_cast<uint32_t>(pair * 4)));
    }
    if constexpr (F::kScales != Scales::none) {
      if (!p.has_scales) return;
      const uint32_t integers =
          from + static_cast<uint32_t>(kTraits.code_bytes() + group * kTraits.group_bytes() +
                                       pair * 2 * bytes_of(F::kScales));
      if constexpr (F::kScales == Scales::pair) {
        const uint32_t word = ptx::load_shared<uint32_t>(integers);
        multiply_by_bytes<0, 0>(scale, word);
        multiply_by_bytes<2, 0>(min, word);
      } else {
        const uint32_t word = ptx::load_shared<uint16_t>(integers);
        if constexpr (F::kScales == Scales::one) {
          multiply_by_bytes<0, 128>(scale, word);
        } else {
          multiply_by_bytes<0, 0>(scale, word & 0x0f0f);
          multiply_by_bytes<0, 0>(min, word >> 4 & 0x0f0f);
        }
      }
    }
  }

  // Multiplies the sums of a group by its scales. The sums of activations are made here, so that
  // they take few registers; the activations are read once more.
  QCORE_DEVICE void flush(uint32_t stage, int span, int first, const Words& words,
                          const float (&partial)[kWarpTiles][kTokenTiles][4]) {
    Pair scale[kWarpTiles], min[kWarpTiles];
    for_tiles([&](int tile) {
      load_scales(stage + warp, (span * kSpanSteps + first) / kFlushSteps, tile, scale[tile],
                  min[tile]);
    });
    QCORE_UNROLL
    for (int t = 0; t < kTokenTiles; t += kPair) {
      uint32_t b[kFlushSteps][kPair][2];
      if constexpr (F::kHasMin) {
        QCORE_UNROLL
        for (int s = 0; s < kFlushSteps; ++s) {
          load_activations_of(stage, span, first + s, t, words, b[s]);
        }
      }
      QCORE_UNROLL
      for (int i = 0; i < kPair; ++i) {
        float ones[4] = {};
        if constexpr (F::kHasMin) {
          QCORE_UNROLL
          for (int s = 0; s < kFlushSteps; ++s) {
            ptx::mma_16x8x16<T>(ones, {kOne, kOne, kOne, kOne}, b[s][i]);
          }
        }
        for_tiles([&](int tile) {
          add(scale[tile], min[tile], partial[tile][t + i], ones, total[tile][t + i]);
        });
      }
    }
  }

  QCORE_DEVICE static void add(const Pair& scale, const Pair& min, const float (&partial)[4],
                               const float (&ones)[4], float (&sum)[4]) {
    QCORE_UNROLL
    for (int i = 0; i < 4; ++i) {
      sum[i] += (i < 2 ? scale.first : scale.second) * partial[i];
      if constexpr (F::kHasMin) sum[i] += (i < 2 ? min.first : min.second) * ones[i];
    }
  }

  uint32_t panel_from, chunk;  // the panel's first piece; the next chunk to copy
  uint32_t warp;               // where its weights lie in a stage
};

}  // namespace qcore::kquant
