// The gemm of op "fp8", written once for every instruction set. A file that instantiates it opens a
// target region and a namespace, includes <isa>.h and then this file.
//
// Both operands become floats: x once per call, four rows of the weight at a time, part by part of
// K, for all rows of x. Vectors run along K; a tile holds sums for a few rows of x times four of
// the weight. Lane j of a sum adds the products of k = j, j + lanes, ... by fused multiply-adds, in
// the order of K; the lanes are added up at the end, in the order of a tree. With scales of blocks
// lane j starts anew in each block, and the sum of the blocks is fma(lane, x_scale * w_scale, sum).
// So a row of y depends neither on its batch nor on the threads.

inline constexpr int kColumns = 4;  // rows of the weight in a tile
// Columns of K that are decoded at once: four rows of them stay in the L1 cache.
inline constexpr int64_t kPart = 4 * kScaleBlock;
// Threads get ranges of at least this many multiply-adds.
inline constexpr int64_t kGrainProducts = 1 << 16;
// As many bytes of decoded x at once.
inline constexpr int64_t kCopyBytes = 8 << 20;

// Padded to whole blocks.
inline int64_t padded(int64_t k) {
  return ceil_div(k, kScaleBlock) * kScaleBlock;
}

QCORE_INLINE Floats load_float8(Float8 type, const uint8_t* p) {
  return type == Float8::e5m2 ? load_e5m2(p) : load_e4m3_but_nan(p);
}

// `count` numbers as floats, zeros behind them up to whole blocks.
inline void decode_row(Float8 type, const uint8_t* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, load_float8(type, from + i));
  for (; i < count; ++i) to[i] = f32_from_float8(type, from[i]);
  for (; i < padded(count); ++i) to[i] = 0;
  if (type == Float8::e5m2) return;
  // NaN, which load_float8() does not see, is rare.
  bool nan = false;
  for (int64_t j = 0; j < count; ++j) nan |= (from[j] & 0x7f) == 0x7f;
  for (int64_t j = 0; nan && j < count; ++j) to[j] = f32_from_e4m3(from[j]);
}

template <int R>
QCORE_INLINE void add_products(Floats (&acc)[R][kColumns], const float* x, int64_t pitch,
                               const float* w) {
  Floats b[kColumns];
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; ++c) b[c] = load_floats(w + c * kPart);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const Floats a = load_floats(x + r * pitch);
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) acc[r][c] = fma_in_place(a, b[c], acc[r][c]);
  }
}

// Sums of lanes of a tile, between parts of K.
using Lanes = float[kColumns][kLanes];

template <int R>
QCORE_INLINE void load_sums(Floats (&acc)[R][kColumns], const Lanes* lanes) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) acc[r][c] = load_floats(lanes[r][c]);
  }
}

template <int R>
QCORE_INLINE void store_sums(const Floats (&acc)[R][kColumns], Lanes* lanes) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) store(lanes[r][c], acc[r][c]);
  }
}

// R rows of x times four of the weight, over `count` columns.
template <int R>
void multiply(const float* x, int64_t pitch, const float* w, int64_t count, Lanes* lanes) {
  Floats acc[R][kColumns];
  load_sums(acc, lanes);
  for (int64_t i = 0; i < count; i += kLanes) add_products(acc, x + i, pitch, w + i);
  store_sums(acc, lanes);
}

// The same for whole blocks; scales [row][block], `stride` apart, times those of the weight.
template <int R>
void multiply_blocks(const float* x, int64_t pitch, const float* w, int64_t count,
                     const float* x_scale, int64_t stride, const float (*w_scale)[kColumns],
                     Lanes* lanes) {
  for (int64_t b = 0; b < count / kScaleBlock; ++b) {
    Floats acc[R][kColumns];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) acc[r][c] = splat(0.0f);
    }
    for (int64_t i = b * kScaleBlock; i < (b + 1) * kScaleBlock; i += kLanes) {
      add_products(acc, x + i, pitch, w + i);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) {
        const Floats scale = splat(x_scale[r * stride + b] * w_scale[b][c]);
        store(lanes[r][c], fma_in_place(acc[r][c], scale, load_floats(lanes[r][c])));
      }
    }
  }
}

using Multiply = void (*)(const float*, int64_t, const float*, int64_t, Lanes*);
using MultiplyBlocks = void (*)(const float*, int64_t, const float*, int64_t, const float*, int64_t,
                                const float (*)[kColumns], Lanes*);

template <int... R>
Multiply tile_of(int64_t rows, std::integer_sequence<int, R...>) {
  static constexpr Multiply kTiles[] = {multiply<R + 1>...};
  return kTiles[rows - 1];
}

template <int... R>
MultiplyBlocks block_tile_of(int64_t rows, std::integer_sequence<int, R...>) {
  static constexpr MultiplyBlocks kTiles[] = {multiply_blocks<R + 1>...};
  return kTiles[rows - 1];
}

// Rows row0 .. row0 + rows - 1 of x, decoded.
struct Call {
  const ScaledArgs& args;
  int64_t row0, rows, pitch, blocks;
  const float* x;
  bool in_blocks;
};

// y of four rows of the weight from `n`.
inline void finish(const Call& call, int64_t n, const Lanes* lanes) {
  const ScaledArgs& args = call.args;
  const int64_t count = std::min<int64_t>(kColumns, args.w.n - n);
  for (int64_t r = 0; r < call.rows; ++r) {
    const int64_t m = call.row0 + r;
    alignas(16) float sums[kColumns];
    store(sums, sums_of(load_floats(lanes[r][0]), load_floats(lanes[r][1]),
                        load_floats(lanes[r][2]), load_floats(lanes[r][3])));
    for (int64_t c = 0; c < count; ++c) {
      float y = sums[c];
      if (!call.in_blocks) {
        y *= args.x_scale[args.x_scales == Granularity::tensor ? 0 : m];
        y *= args.w_scale[args.w.granularity == Granularity::tensor ? 0 : n + c];
      }
      if (args.bias) y += load_scalar(args.bias_dtype, args.bias, n + c);
      store_scalar(args.dtype, args.y, m * args.w.n + n + c, y);
    }
  }
}

// Four rows of the weight; `lanes` of call.rows.
inline void run_columns(const Call& call, int64_t n, Lanes* lanes) {
  const ScaledArgs& args = call.args;
  alignas(64) float w[kColumns * kPart];
  std::memset(lanes, 0, static_cast<size_t>(call.rows) * sizeof(Lanes));
  const int64_t most = call.in_blocks ? kBlockTileRows : kTileRows;
  const int64_t tiles = ceil_div(call.rows, most);
  for (int64_t k = 0; k < args.w.k; k += kPart) {
    const int64_t real = std::min(kPart, args.w.k - k), count = padded(real);
    for (int64_t c = 0; c < kColumns; ++c) {
      // Behind the last row comes the last row.
      const int64_t row = std::min(n + c, args.w.n - 1);
      decode_row(float8_of(args.w.elements), args.weight_as<uint8_t>() + row * args.w.k + k, real,
                 w + c * kPart);
    }
    float w_scale[kPart / kScaleBlock][kColumns];
    for (int64_t b = 0; call.in_blocks && b < count / kScaleBlock; ++b) {
      for (int64_t c = 0; c < kColumns; ++c) {
        const int64_t row = std::min(n + c, args.w.n - 1) / kScaleBlock;
        w_scale[b][c] = args.w_scale[row * call.blocks + k / kScaleBlock + b];
      }
    }
    for (int64_t tile = 0; tile < tiles; ++tile) {
      // Tiles of nearly equal heights.
      const int64_t top = tile * call.rows / tiles;
      const int64_t height = (tile + 1) * call.rows / tiles - top;
      const float* x = call.x + top * call.pitch + k;
      if (call.in_blocks) {
        const float* x_scale = args.x_scale + (call.row0 + top) * call.blocks + k / kScaleBlock;
        block_tile_of(height, std::make_integer_sequence<int, kBlockTileRows>())(
            x, call.pitch, w, count, x_scale, call.blocks, w_scale, lanes + top);
      } else {
        tile_of(height, std::make_integer_sequence<int, kTileRows>())(x, call.pitch, w, count,
                                                                      lanes + top);
      }
    }
  }
  finish(call, n, lanes);
}

inline Status gemm(const ScaledArgs& args, const Executor& executor) {
  // Rows an odd number of cache lines apart, so that their columns lie in different sets.
  const int64_t pitch = padded(args.w.k) + 16;
  const int64_t at_once =
      std::min(args.m, std::max<int64_t>(32, kCopyBytes / (pitch * int64_t{sizeof(float)})));
  const AlignedArray<float> copy(at_once * pitch);
  const Status no_memory{StatusCode::out_of_memory, "fp8_gemm: no memory for a copy of x"};
  if (!copy.data()) return no_memory;
  std::atomic<bool> failed = false;
  for (int64_t row0 = 0; row0 < args.m; row0 += at_once) {
    const int64_t rows = std::min(at_once, args.m - row0);
    executor.parallel.for_range(
        rows, std::max<int64_t>(1, (1 << 14) / args.w.k), [&](int64_t begin, int64_t end) {
          for (; begin < end; ++begin) {
            decode_row(float8_of(args.x_type),
                       args.x_as<uint8_t>() + (row0 + begin) * args.x_stride, args.w.k,
                       copy.data() + begin * pitch);
          }
        });
    const Call call{args,
                    row0,
                    rows,
                    pitch,
                    ceil_div(args.w.k, kScaleBlock),
                    copy.data(),
                    args.x_scales == Granularity::block};
    // A range of four rows of the weight each needs memory for its sums.
    const int64_t columns = ceil_div(args.w.n, int64_t{kColumns});
    const int64_t grain = ceil_div(kGrainProducts, kColumns * args.w.k * rows);
    executor.parallel.for_range(columns, grain, [&](int64_t begin, int64_t end) {
      const ExactSubnormals mode;
      const AlignedArray<float> lanes(rows * kColumns * kLanes);
      if (!lanes.data()) return failed.store(true);
      for (; begin < end; ++begin) {
        run_columns(call, begin * kColumns, reinterpret_cast<Lanes*>(lanes.data()));
      }
    });
    if (failed) return no_memory;
  }
  return {};
}
