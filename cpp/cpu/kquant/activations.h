// The activations of op "kquant", prepared for register tiles. Included by loops.h inside a target
// region and a namespace, after a vector vocabulary and decode.h.
//
// For one row and block: scale = max|x| / 127, q = round_to_even(x * (127 / max|x|)), or 0 where
// max|x| is too small to divide by. A block that holds an infinity or NaN has the scale NaN, so
// that it shows in its own row of y and nowhere else.
//
// A block of rows lies as [tile of rows][block of K][words of one block], where the words of the R
// rows of a tile that meet one vector of codes stand side by side.

// So many rows of x are prepared at once: with K = 4096, half a megabyte.
constexpr int64_t kBlockRows = 128;

// How the rows of a block are cut into tiles of nearly equal height.
struct Tiling {
  int64_t rows, tiles;

  static Tiling of(int64_t rows) { return {rows, ceil_div(rows, kTileRows)}; }
  int64_t height(int64_t tile) const { return rows / tiles + (tile < rows % tiles ? 1 : 0); }
  int64_t first(int64_t tile) const { return tile * (rows / tiles) + std::min(tile, rows % tiles); }
};

template <class D>
inline constexpr int kGroups = D::kElements / D::kGroup;
template <class D>
inline constexpr int kQuads =
    D::kMinima == Minima::integers ? D::kElements / D::kMinimumGroup / 4 : 0;
// Codes with an offset: sums start at what it adds, instead of at zero.
template <class D>
inline constexpr bool kStarts = D::kOffset != 0 && !is_signed<D>;

// The words of one block, in units of the rows of a tile.
template <class D>
struct Words {
  static constexpr int kX = 0;                     // [elements / 4] four bytes of q
  static constexpr int kStart = D::kElements / 4;  // [groups] -offset * the sum of q, if kStarts
  static constexpr int kHigh = kStart + (kStarts<D> ? kGroups<D> : 0);
  static constexpr int kLow = kHigh + kQuads<D>;  // [quads] four sums of q as 64 * high + low
  static constexpr int kSum = kLow + kQuads<D>;   // a float: scale * the sum of q, if one minimum
  static constexpr int kScale = kSum + (D::kMinima == Minima::one ? 1 : 0);  // a float
  static constexpr int kCount = kScale + 1;
};

QCORE_INLINE Floats load_as(DType dtype, const void* p) {
  if (dtype == DType::f32) return load_floats(p);
  return dtype == DType::f16 ? load_f16(p) : load_bf16(p);
}

inline int32_t sum_of(const int8_t* q, int count) {
  int32_t sum = 0;
  for (int i = 0; i < count; ++i) sum += q[i];
  return sum;
}

// One block of one row, as row `r` of a tile of `rows` rows.
template <class D>
void quantize_block(DType dtype, const void* x, int64_t rows, int64_t r, int32_t* words) {
  using W = Words<D>;
  constexpr int kVectors = D::kElements / kLanes;
  const char* from = static_cast<const char*>(x);
  const int64_t step = kLanes * size_of(dtype);
  Floats v[kVectors];
  Floats most = splat(0.0f), nothing = splat(0.0f);
  for (int i = 0; i < kVectors; ++i) {
    v[i] = load_as(dtype, from + i * step);
    most = larger(magnitude(v[i]), most);
    nothing = fma(v[i], splat(0.0f), nothing);  // 0, or NaN
  }
  const float amax = most_of(most);
  const bool finite = !any_nan(nothing);
  const float inverse = finite && amax >= kLeastAmax ? 127.0f / amax : 0.0f;
  const float scale = finite ? amax / 127.0f : std::numeric_limits<float>::quiet_NaN();

  alignas(64) int8_t q[D::kElements];
  for (int i = 0; i < kVectors; ++i) {
    // A product with 0 would be NaN for an infinity.
    const Floats scaled = finite ? multiply(v[i], splat(inverse)) : splat(0.0f);
    store_bytes(q + i * kLanes, round_to_ints(scaled));
  }
  int32_t* out = words + r;
  for (int i = 0; i < D::kElements / 4; ++i) {
    std::memcpy(out + (W::kX + i) * rows, q + 4 * i, 4);
  }
  if constexpr (kStarts<D>) {
    for (int g = 0; g < kGroups<D>; ++g) {
      out[(W::kStart + g) * rows] = -D::kOffset * sum_of(q + g * D::kGroup, D::kGroup);
    }
  }
  for (int quad = 0; quad < kQuads<D>; ++quad) {
    int8_t high[4], low[4];
    for (int i = 0; i < 4; ++i) {
      const int g = 4 * quad + i;
      const int32_t sum = sum_of(q + g * D::kMinimumGroup, D::kMinimumGroup);
      high[i] = static_cast<int8_t>(sum >> 6);
      low[i] = static_cast<int8_t>(sum & 63);
    }
    std::memcpy(out + (W::kHigh + quad) * rows, high, 4);
    std::memcpy(out + (W::kLow + quad) * rows, low, 4);
  }
  if constexpr (D::kMinima == Minima::one) {
    const float sum = static_cast<float>(sum_of(q, D::kElements)) * scale;
    std::memcpy(out + W::kSum * rows, &sum, 4);
  }
  std::memcpy(out + W::kScale * rows, &scale, 4);
}
