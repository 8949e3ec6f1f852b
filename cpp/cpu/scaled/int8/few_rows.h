// Few rows of x: vectors along K. Included by loops.h.

// A copy of rows of x, with its offset, padded along K with zeros to whole vectors. Rows are an odd
// number of cache lines apart, so that their columns lie in different sets.
inline int64_t row_pitch(int64_t k) {
  constexpr int64_t kPerLine = 64 / static_cast<int64_t>(sizeof(XElement));
  return (ceil_div(k, kPerLine) | 1) * kPerLine;
}

inline void copy_row(const int8_t* x, int64_t k, XElement* out) {
  for (int64_t i = 0; i < k; ++i) out[i] = static_cast<XElement>(x[i] + kOffset);
  for (int64_t i = k; i < row_pitch(k); ++i) out[i] = 0;
}

template <int R, int C>
QCORE_INLINE void add_products(Ints (&acc)[R][C], const XElement* x, int64_t pitch,
                               const int8_t* const (&w)[C], int64_t i) {
  // What there are fewer of is held in registers.
  if constexpr (C <= R) {
    Ints b[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) b[c] = load_w(w[c] + i);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Ints a = load_aligned(x + r * pitch + i);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) acc[r][c] = dot(acc[r][c], a, b[c]);
    }
  } else {
    Ints a[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) a[r] = load_aligned(x + r * pitch + i);
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const Ints b = load_w(w[c] + i);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[r][c] = dot(acc[r][c], a[r], b);
    }
  }
}

// Sums of R rows of x and C of the weight over `count` columns, a multiple of kStep, added to
// `sums` unless they are the first. Meanwhile the rows of the weight that are `ahead` bytes further
// on, for the next tile, come into the L2 cache: each row is a stream of its own, as short as K, so
// that the hardware's prefetchers start anew with every tile.
template <int R, int C>
void multiply_rows(const XElement* x, int64_t pitch, const int8_t* const* w, int64_t count,
                   int64_t ahead, bool first, int32_t* sums) {
  Ints acc[R][C];
  const int8_t* rows[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    rows[c] = w[c];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) acc[r][c] = splat(0);
  }
  for (int64_t i = 0; i < count; i += kStep) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) prefetch_far(rows[c] + i + ahead);
    add_products(acc, x, pitch, rows, i);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int c = 0; c < C; c += 4) {
      int32_t* to = sums + r * kStrip + c;
      const FourInts four = sums_of(acc[r][c], acc[r][c + 1], acc[r][c + 2], acc[r][c + 3]);
      store(to, first ? four : add(load_four_ints(to), four));
    }
  }
}

using MultiplyRows = void (*)(const XElement*, int64_t, const int8_t* const*, int64_t, int64_t,
                              bool, int32_t*);

template <int C, int... R>
MultiplyRows tile_of(int64_t rows, std::integer_sequence<int, R...>) {
  static constexpr MultiplyRows kTiles[] = {multiply_rows<R + 1, C>...};
  return kTiles[rows - 1];
}

// The last columns of rows of the weight, fewer than kStep, padded with zeros.
struct RowTails {
  alignas(64) int8_t bytes[kStrip][kStep] = {};
  const int8_t* w[kStrip];

  RowTails(const Strip& s, int64_t k) {
    const int64_t whole = k / kStep * kStep;
    for (int64_t c = 0; c < kStrip; ++c) {
      std::memcpy(bytes[c], s.w[c] + whole, static_cast<size_t>(k - whole));
      w[c] = bytes[c];
    }
  }
};

// `count` columns of K of `rows` rows of x, at most kFewRows, and of a strip, whose rows are `k`
// bytes apart. If the strip was read before, to sum its rows, what is wanted next is the next one.
inline void rows_part(const XElement* x, int64_t pitch, int64_t rows, const int8_t* const* w,
                      int64_t width, int64_t k, bool read_before, int64_t count, bool first,
                      int32_t* sums) {
  const bool wide = rows <= kWideTileRows;
  const int64_t tiles = ceil_div(rows, int64_t{wide ? kWideTileRows : kTileRows});
  const int64_t columns = wide ? 8 : 4, ahead = (read_before ? kStrip : columns) * k;
  for (int64_t c = 0; c < width; c += columns) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      // Tiles of nearly equal heights.
      const int64_t top = tile * rows / tiles, height = (tile + 1) * rows / tiles - top;
      MultiplyRows multiply = tile_of<4>(height, std::make_integer_sequence<int, kTileRows>());
      if constexpr (kWideTileRows > 0) {
        if (wide) multiply = tile_of<8>(height, std::make_integer_sequence<int, kWideTileRows>());
      }
      multiply(x + top * pitch, pitch, w + c, count, ahead, first, sums + top * kStrip + c);
    }
  }
}

// Rows m .. m + rows - 1 of y, at most kFewRows, of one strip; x is the copy of the first of them.
inline void rows_strip(const ScaledArgs& args, const Strip& s, int64_t m, int64_t rows,
                       const XElement* x) {
  alignas(64) int32_t sums[kFewRows * kStrip];
  const int64_t pitch = row_pitch(args.w.k), whole = args.w.k / kStep * kStep;
  for (int64_t k = 0; k < whole; k += kPart) {
    const int8_t* w[kStrip];
    for (int64_t c = 0; c < kStrip; ++c) w[c] = s.w[c] + k;
    rows_part(x + k, pitch, rows, w, s.count, args.w.k, !args.w_sum, std::min(kPart, whole - k),
              k == 0, sums);
  }
  if (whole < args.w.k) {
    const RowTails tails(s, args.w.k);
    rows_part(x + whole, pitch, rows, tails.w, s.count, 0, false, kStep, whole == 0, sums);
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < s.count; c += kLanes) {
      finish(args, s, m + r, c, load_ints(sums + r * kStrip + c));
    }
  }
}
