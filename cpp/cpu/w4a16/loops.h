// The gemm of op "w4a16", written once for every instruction set. A file that instantiates it opens
// a target region and a namespace, includes <isa>.h and then this file.
// Nothing here is shared between instruction sets, and every std header is included before the
// region.
//
// One sequence of roundings for every M, tile and thread count, so that a row of y does not depend
// on its batch or on the pool. For one output, over the segments of K (panel16.h):
//   acc   = fma(x[k], code - zero, acc), k ascending from acc = 0, padding included (x = 0)
//   total = fma(scale, acc, total), from total = 0
// and y = round(total + bias). code - zero is an exact small integer: correcting by zero * sum(x)
// afterwards would be cheaper by one subtraction for each code, but where the two nearly cancel it
// would leave the rounding errors of both.
//
// Activations are prepared once for a block of rows (w4a16_activations.h). Then
//   few rows:  weights are decoded in registers, several panels at once for independent chains
//   many rows: a segment of kTilePanels panels is decoded once into L1 and used by all tiles of the
//   block

#include "cpu/w4a16/activations.h"
#include "cpu/w4a16/codes.h"

// A block of rows of x, prepared, and what is needed to compute its rows of y.
struct Block {
  const W4A16Args& args;
  const Geometry& geometry;
  int64_t row0;
  Tiling tiling;
  const float* x;
};

// Threads take panels in steps of as many as the widest tile has.
constexpr int64_t kStep = 4;

// ---- weights ----

// Scales and zero points (less the center) of one group of a panel.
struct Parameters {
  Floats16 scale, zero;
};

template <Elements elements>
QCORE_INLINE Parameters load_parameters(const Block& b, int64_t panel, int64_t group) {
  const PackedScaled& w = b.args.weight;
  const int64_t at = b.geometry.group_offset(panel, group);
  const char* scales = static_cast<const char*>(w.scales) + at * size_of(w.shape.scale_dtype);
  constexpr float center = center_of(elements);
  return {load_as(w.shape.scale_dtype, scales),
          w.zeros ? sub(to_floats(load_bytes<Ints16>(w.zeros + at)), splat<Floats16>(center))
                  : splat<Floats16>(0.0f)};
}

QCORE_INLINE const uint32_t* unit_at(const Block& b, int64_t panel, int64_t unit) {
  return reinterpret_cast<const uint32_t*>(static_cast<const char*>(b.args.weight.qweight) +
                                           b.geometry.unit_offset(panel, unit));
}

// ---- results ----

// y = round(total + bias) for `rows` rows and one panel; totals are `stride` floats apart.
inline void write_panel(const Block& b, int64_t row, int64_t rows, int64_t panel,
                        const float* totals, int64_t stride) {
  const DType dtype = b.args.dtype;
  const int64_t size = size_of(dtype);
  const int64_t n0 = panel * kRows;
  const int64_t columns = std::min<int64_t>(kRows, b.geometry.n - n0);
  const size_t bytes = static_cast<size_t>(columns * size);
  Floats16 bias = splat<Floats16>(0.0f);
  if (b.args.bias) {
    alignas(64) char padded[kRows * 4] = {};
    std::memcpy(padded, static_cast<const char*>(b.args.bias) + n0 * size, bytes);
    bias = load_as(dtype, padded);
  }
  char* y = static_cast<char*>(b.args.y) + ((b.row0 + row) * b.geometry.n + n0) * size;
  for (int64_t r = 0; r < rows; ++r, y += b.geometry.n * size) {
    Floats16 total = load_floats<Floats16>(totals + r * stride);
    if (b.args.bias) total = add(total, bias);
    if (columns == kRows) {
      store_as(dtype, y, total);
    } else {
      alignas(64) char padded[kRows * 4];
      store_as(dtype, padded, total);
      std::memcpy(y, padded, bytes);
    }
  }
}

// ---- register tiles: R rows of x by P panels ----

template <int R, int P>
struct Tile {
  Floats16 v[R][P];
};

template <int R, int P>
QCORE_INLINE void clear(Tile<R, P>& tile) {
  for (auto& row : tile.v) {
    for (Floats16& a : row) a = splat<Floats16>(0.0f);
  }
}

template <int R, int P>
QCORE_INLINE void multiply(const float* x, const Floats16 (&w)[P], Tile<R, P>& acc) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const Floats16 activation = splat<Floats16>(x[r]);
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) acc.v[r][p] = fma(activation, w[p], acc.v[r][p]);
  }
}

template <int R, int P>
QCORE_INLINE void finish_segment(const Parameters (&parameters)[P], const Tile<R, P>& acc,
                                 Tile<R, P>& total) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      total.v[r][p] = fma(parameters[p].scale, acc.v[r][p], total.v[r][p]);
    }
  }
}

// ---- few rows: decode in registers ----

template <Elements elements, bool zeros, int C, int R, int P>
QCORE_INLINE void direct_column(const uint32_t* const (&units)[P], int64_t word, const float* x,
                                const ZeroPoint<bits_of(elements)> (&zero)[P], Tile<R, P>& acc) {
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
    const uint32_t* at = units[p] + word * kRows;
    Floats16 w;
    if constexpr (zeros) {
      w = column_less<bits_of(elements), C>(at, zero[p]);
    } else {
      w = column<elements, C>(at);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc.v[r][p] = fma_broadcast(x + C * R + r, w, acc.v[r][p]);
  }
}

template <Elements elements, bool zeros, int R, int P, int... C>
QCORE_INLINE void direct_columns(const uint32_t* const (&units)[P], int64_t word, const float* x,
                                 const ZeroPoint<bits_of(elements)> (&zero)[P], Tile<R, P>& acc,
                                 std::integer_sequence<int, C...>) {
  (direct_column<elements, zeros, C, R, P>(units, word, x, zero, acc), ...);
}

// The dwords of a unit are alike, so one is unrolled and the code stays small.
template <Elements elements, bool zeros, int R, int P>
QCORE_INLINE void direct_unit(const uint32_t* const (&units)[P], const float* x,
                              const ZeroPoint<bits_of(elements)> (&zero)[P], Tile<R, P>& acc) {
  constexpr int kWidth = bits_of(elements), kPerWord = 32 / kWidth;
#pragma GCC unroll 1
  for (int word = 0; word < kWidth; ++word) {
    direct_columns<elements, zeros, R, P>(units, word, x + word * kPerWord * R, zero, acc,
                                          std::make_integer_sequence<int, kPerWord>());
  }
  if constexpr (elements == Elements::u3) {  // the two columns in the bits left over
    direct_columns<elements, zeros, R, P>(units, 0, x, zero, acc,
                                          std::integer_sequence<int, 30, 31>());
  }
}

// 1 KiB ahead in each panel's stream: measured on Zen 4, where 512 bytes to 2 KiB are alike.
constexpr int64_t kPrefetchWords = 256;

// One tile of the block by P panels. Between segments x skips the other tiles.
template <Elements elements, bool zeros, int R, int P>
void direct(const Block& b, int64_t tile, int64_t panel) {
  constexpr int kWidth = bits_of(elements);
  const Geometry& g = b.geometry;
  const int64_t row = b.tiling.first(tile);
  const float* x = b.x;
  const uint32_t* units[P];
  for (int p = 0; p < P; ++p) units[p] = unit_at(b, panel + p, 0);
  Tile<R, P> total;
  clear(total);
  for (int64_t group = 0; group < g.groups; ++group) {
    Parameters parameters[P];
    ZeroPoint<bits_of(elements)> zero[P];
    for (int p = 0; p < P; ++p) {
      parameters[p] = load_parameters<elements>(b, panel + p, group);
      if constexpr (zeros) zero[p] = zero_point<bits_of(elements)>(parameters[p].zero);
    }
    for (int64_t left = g.units_of(group); left > 0; left -= kSegmentUnits) {
      const int64_t count = std::min<int64_t>(left, kSegmentUnits);
      const float* column = x + count * kUnitColumns * row;
      Tile<R, P> acc;
      clear(acc);
      for (int64_t u = 0; u < count; ++u) {
        for (int p = 0; p < P; ++p) {
          for (int line = 0; line < kWidth; ++line) {
            prefetch(units[p] + kPrefetchWords + line * kRows);
          }
        }
        direct_unit<elements, zeros, R, P>(units, column, zero, acc);
        column += kUnitColumns * R;
        for (int p = 0; p < P; ++p) units[p] += panel16::unit_words(bits_of(elements));
      }
      x += count * kUnitColumns * b.tiling.rows;
      finish_segment<R, P>(parameters, acc, total);
    }
  }
  alignas(64) float totals[R][kRows];
  for (int p = 0; p < P; ++p) {
    for (int r = 0; r < R; ++r) store(totals[r], total.v[r][p]);
    write_panel(b, row, R, panel + p, totals[0], kRows);
  }
}

template <Elements elements, bool zeros, int R>
void direct_tile(const Block& b, int64_t tile, int64_t begin, int64_t end) {
  constexpr int P = direct_panels(R);
  for (; begin + P <= end; begin += P) direct<elements, zeros, R, P>(b, tile, begin);
  if constexpr (P > 1) {
    for (; begin < end; ++begin) direct<elements, zeros, R, 1>(b, tile, begin);
  }
}

template <Elements elements, bool zeros, int... R>
void direct_block(const Block& b, int64_t begin, int64_t end, std::integer_sequence<int, R...>) {
  using TileFunction = void (*)(const Block&, int64_t, int64_t, int64_t);
  static constexpr TileFunction kTiles[] = {direct_tile<elements, zeros, R + 1>...};
  // Tiles inside, so that the panels of a step are still in the cache for the next tile.
  for (int64_t panel = begin; panel < end; panel += kStep) {
    for (int64_t tile = 0; tile < b.tiling.tiles; ++tile) {
      kTiles[b.tiling.height(tile) - 1](b, tile, panel, std::min(end, panel + kStep));
    }
  }
}

// ---- many rows: decode a segment into L1, then multiply all tiles by it ----

template <Elements elements, int P, int... C>
QCORE_INLINE void decode_columns(const uint32_t* word, Floats16 zero, float* out,
                                 std::integer_sequence<int, C...>) {
  (store(out + C * P * kRows, sub(column<elements, C>(word), zero)), ...);
}

// code - zero as [column][panel][16].
template <Elements elements, int P>
void decode_segment(const Block& b, int64_t panel, const Segment& segment,
                    const Parameters (&parameters)[P], float* out) {
  constexpr int kWidth = bits_of(elements), kPerWord = 32 / kWidth;
  for (int p = 0; p < P; ++p) {
    const uint32_t* unit = unit_at(b, panel + p, segment.unit);
    const Floats16 zero = parameters[p].zero;
    for (int64_t k = 0; k < segment.columns; k += kUnitColumns) {
      float* to = out + (k * P + p) * kRows;
#pragma GCC unroll 1
      for (int word = 0; word < kWidth; ++word) {
        decode_columns<elements, P>(unit + word * kRows, zero, to + word * kPerWord * P * kRows,
                                    std::make_integer_sequence<int, kPerWord>());
      }
      if constexpr (elements == Elements::u3) {
        decode_columns<elements, P>(unit, zero, to, std::integer_sequence<int, 30, 31>());
      }
      unit += panel16::unit_words(bits_of(elements));
    }
  }
}

template <int R, int P>
void tile_segment(int64_t columns, const float* x, const float* w,
                  const Parameters (&parameters)[P], float* totals) {
  Tile<R, P> acc;
  clear(acc);
  for (int64_t k = 0; k < columns; ++k) {
    Floats16 weights[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) weights[p] = load_floats<Floats16>(w + p * kRows);
    multiply<R, P>(x, weights, acc);
    x += R;
    w += P * kRows;
  }
  Tile<R, P> total;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) total.v[r][p] = load_floats<Floats16>(totals + (r * P + p) * kRows);
  }
  finish_segment<R, P>(parameters, acc, total);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) store(totals + (r * P + p) * kRows, total.v[r][p]);
  }
}

template <int P>
using TileFunction = void (*)(int64_t, const float*, const float*, const Parameters (&)[P], float*);

template <int P, int... R>
constexpr std::array<TileFunction<P>, sizeof...(R)> tile_functions(
    std::integer_sequence<int, R...>) {
  return {tile_segment<R + 1, P>...};
}

constexpr int64_t kBlockRows = 128;

template <Elements elements, int P>
void blocked(const Block& b, int64_t panel) {
  static constexpr auto kTiles = tile_functions<P>(std::make_integer_sequence<int, kTileRows>());
  const Geometry& g = b.geometry;
  alignas(64) float weights[kSegmentColumns * P * kRows];
  alignas(64) float totals[kBlockRows * P * kRows];
  std::memset(totals, 0, static_cast<size_t>(b.tiling.rows * P * kRows) * sizeof(float));
  const int64_t segments = g.segments();
  for (int64_t index = 0; index < segments; ++index) {
    const Segment segment = panel16::segment_at(g, index);
    Parameters parameters[P];
    for (int p = 0; p < P; ++p)
      parameters[p] = load_parameters<elements>(b, panel + p, segment.group);
    decode_segment<elements, P>(b, panel, segment, parameters, weights);
    const float* x = b.x + segment.unit * kUnitColumns * b.tiling.rows;
    for (int64_t tile = 0; tile < b.tiling.tiles; ++tile) {
      const int64_t height = b.tiling.height(tile);
      const int64_t row = b.tiling.first(tile);
      kTiles[static_cast<size_t>(height - 1)](segment.columns, x, weights, parameters,
                                              totals + row * P * kRows);
      x += segment.columns * height;
    }
  }
  for (int p = 0; p < P; ++p) {
    write_panel(b, 0, b.tiling.rows, panel + p, totals + p * kRows, P * kRows);
  }
}

template <Elements elements>
void blocked_panels(const Block& b, int64_t begin, int64_t end) {
  for (; begin + kTilePanels <= end; begin += kTilePanels) blocked<elements, kTilePanels>(b, begin);
  if constexpr (kTilePanels > 1) {
    for (; begin < end; ++begin) blocked<elements, 1>(b, begin);
  }
}

#include "cpu/w4a16/gemm.h"
