// Many rows of x: a panel holds as many as there are lanes. Included by loops.h.
//
// A block is up to kMostPanels panels; its copy is [columns / 4][panel][lane][4 columns] of x +
// 128, padded with zeros.

inline constexpr int64_t kBlockRows = int64_t{kMostPanels} * kLanes;
inline constexpr int kPanelColumns = 6;  // rows of the weight in a tile

inline int64_t block_bytes(int64_t panels, int64_t k) {
  return ceil_div(k, 4) * panels * kLanes * 4;
}

// One panel, `rows` of whose rows exist. What is missing at the end of K stays as it is: it meets
// zeros of the weight.
inline void copy_panel(const int8_t* x, int64_t stride, int64_t rows, int64_t k, int64_t panels,
                       int64_t panel, uint8_t* out) {
  constexpr int64_t kWidth = kLanes * 4;  // bytes of a vector: a square of groups of four columns
  out += panel * kWidth;
  alignas(64) int8_t padded[kLanes][kWidth] = {};
  for (int64_t i = 0; i < k; i += kWidth) {
    const int64_t count = std::min(kWidth, k - i), groups = ceil_div(count, 4);
    Ints square[kLanes];
#pragma GCC unroll 16
    for (int r = 0; r < kLanes; ++r) {
      const int8_t* from = x + r * stride + i;
      if (r >= rows || count < kWidth) {
        if (r < rows) std::memcpy(padded[r], from, static_cast<size_t>(count));
        from = padded[r];
      }
      square[r] = exclusive_or(load_ints(from), splat(static_cast<int32_t>(0x80808080u)));
    }
    transpose(square);
#pragma GCC unroll 16
    for (int q = 0; q < kLanes; ++q) {
      if (q < groups) store(out + (i / 4 + q) * panels * kWidth, square[q]);
    }
  }
}

QCORE_INLINE int32_t four_bytes(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return four;
}

template <int P, int C>
QCORE_INLINE void add_products(Ints (&acc)[C][P], const uint8_t* x, const int8_t* const (&w)[C],
                               int64_t i) {
  constexpr int64_t kPanel = kLanes * 4, kAhead = 1024;
  Ints a[P];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    a[p] = load_ints(x + p * kPanel);
    prefetch(x + p * kPanel + kAhead);
  }
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    const Ints b = splat(four_bytes(w[c] + i));
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) acc[c][p] = dot(acc[c][p], a[p], b);
  }
}

// Sums of P panels and the rows w[0 .. 5] over `count` columns, a multiple of 4, added to `sums`
// unless they are the first; sums [row of w][kBlockRows].
template <int P>
void multiply_panels(const uint8_t* x, const int8_t* const* w, int64_t count, int64_t ahead,
                     bool first, int32_t* sums) {
  constexpr int C = kPanelColumns;
  Ints acc[C][P];
  const int8_t* rows[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    rows[c] = w[c];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) acc[c][p] = splat(0);
  }
  for (int64_t i = 0; i < count;) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) prefetch_far(rows[c] + i + ahead);
    for (const int64_t end = std::min(count, i + 64); i < end; i += 4) {
      add_products(acc, x + i * (P * kLanes), rows, i);
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      int32_t* to = sums + c * kBlockRows + p * kLanes;
      store(to, first ? acc[c][p] : add(load_ints(to), acc[c][p]));
    }
  }
}

using MultiplyPanels = void (*)(const uint8_t*, const int8_t* const*, int64_t, int64_t, bool,
                                int32_t*);

template <int... P>
MultiplyPanels panels_of(int64_t panels, std::integer_sequence<int, P...>) {
  static constexpr MultiplyPanels kTiles[] = {multiply_panels<P + 1>...};
  return kTiles[panels - 1];
}

// Rows m .. m + rows - 1 of y, at most kBlockRows, of one strip; x is their block.
inline void panels_strip(const ScaledArgs& args, const Strip& s, int64_t m, int64_t rows,
                         const uint8_t* x) {
  alignas(64) int32_t sums[kStrip * kBlockRows];
  const int64_t panels = ceil_div(rows, kLanes);
  const MultiplyPanels multiply = panels_of(panels, std::make_integer_sequence<int, kMostPanels>());
  const int64_t whole = args.w.k / 4 * 4;
  for (int64_t k = 0; k < whole; k += kPart) {
    const int64_t part = std::min(kPart, whole - k);
    for (int64_t c = 0; c < s.count; c += kPanelColumns) {
      const int8_t* w[kPanelColumns];
      for (int i = 0; i < kPanelColumns; ++i) w[i] = s.w[c + i] + k;
      multiply(x + block_bytes(panels, k), w, part, args.w.k * kPanelColumns, k == 0,
               sums + c * kBlockRows);
    }
  }
  for (int64_t c = 0; whole < args.w.k && c < s.count; c += kPanelColumns) {
    int8_t padded[kPanelColumns][4] = {};
    const int8_t* w[kPanelColumns];
    for (int i = 0; i < kPanelColumns; ++i) {
      std::memcpy(padded[i], s.w[c + i] + whole, static_cast<size_t>(args.w.k - whole));
      w[i] = padded[i];
    }
    multiply(x + block_bytes(panels, whole), w, 4, 0, whole == 0, sums + c * kBlockRows);
  }
  for (int64_t r = 0; r < rows; r += kLanes) {
    for (int64_t c = 0; c < s.count; c += kLanes) {
      Ints square[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) square[i] = load_ints(sums + (c + i) * kBlockRows + r);
      transpose(square);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (r + i < rows) finish(args, s, m + r + i, c, square[i]);
      }
    }
  }
}
