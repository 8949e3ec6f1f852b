// Activations as they are: weights are decoded to floats. Included by loops.h.
//
//   acc = fma(x[k], w[k], acc), k ascending,  w = (d * scale) * value - dmin * minimum
// with the roundings of decode_blocks().

// The integer scale of group g.
template <class D>
QCORE_INLINE Ints scale_at(const int32_t* scales, int g) {
  if constexpr (!D::kPaired) return load_ints(scales + g * kLanes);
  const Ints pair = load_ints(scales + g / 2 * kLanes);
  return shift_right_signed<16>(g % 2 == 0 ? shift_left<16>(pair) : pair);
}

// The four codes of all parts of a block.
template <class D, int... part>
QCORE_INLINE void decode_chunk(const Strip& s, int chunk, int32_t* out,
                               std::integer_sequence<int, part...>) {
  (store(out + part * kLanes, shift_right<D::shift(part)>(D::template codes<part>(s, chunk))), ...);
}

// The weights of one block of a strip, [element][lane].
template <class D>
void decode_floats(const Strip& s, float* out) {
  alignas(64) int32_t codes[D::kElements / 4 * kLanes];
  alignas(64) int32_t scales[(D::kScaled ? kGroups<D> : 1) * kLanes];
  for (int chunk = 0; chunk < D::kChunks; ++chunk) {
    decode_chunk<D>(s, chunk, codes + chunk * D::kParts * kLanes,
                    std::make_integer_sequence<int, D::kParts>());
  }
  if constexpr (D::kScaled) D::scales(s, scales);
  const Floats d = D::d(s);
  Floats dmin = splat(0.0f);
  if constexpr (D::kMinima != Minima::none) dmin = D::minimum(s);
  for (int g = 0; g < kGroups<D>; ++g) {
    const Floats scale = D::kScaled ? multiply(d, to_floats(scale_at<D>(scales, g))) : d;
    Floats less = dmin;
    if constexpr (D::kMinima == Minima::integers) {
      const Ints minima = shift_right_each(D::minima(s, g / 4), splat(g % 4 * 8));
      less = multiply(dmin, to_floats(both(minima, splat(255))));
    }
    for (int i = g * D::kGroup; i < (g + 1) * D::kGroup; ++i) {
      const Ints four = load_ints(codes + i / 4 * kLanes);
      const Ints byte = shift_left_each(four, splat(24 - i % 4 * 8));
      const Ints value = is_signed<D> ? shift_right_signed<24>(byte)
                                      : sub(shift_right<24>(byte), splat(D::kOffset));
      Floats w = multiply(scale, to_floats(value));
      if constexpr (D::kMinima != Minima::none) w = sub(w, less);
      store(out + i * kLanes, w);
    }
  }
}

template <int R>
void multiply_floats(const float* w, int64_t elements, const float* x, float* sums) {
  Floats acc[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) acc[r] = load_floats(sums + r * kLanes);
  for (int64_t k = 0; k < elements; ++k, w += kLanes, x += R) {
    const Floats weights = load_floats(w);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r] = fma(splat(x[r]), weights, acc[r]);
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) store(sums + r * kLanes, acc[r]);
}

// One block of one row of x as floats, [element][row of the tile].
template <class D>
void load_block(DType dtype, const void* x, int64_t rows, int64_t r, int32_t* words) {
  alignas(64) float values[D::kElements];
  const char* from = static_cast<const char*>(x);
  for (int i = 0; i < D::kElements; i += kLanes) {
    store(values + i, load_as(dtype, from + i * size_of(dtype)));
  }
  for (int i = 0; i < D::kElements; ++i) std::memcpy(words + i * rows + r, values + i, 4);
}

template <class D, int... R>
void float_strip(const Call& call, int64_t strip, std::integer_sequence<int, R...>) {
  using Function = void (*)(const float*, int64_t, const float*, float*);
  static constexpr Function kTiles[] = {multiply_floats<R + 1>...};
  alignas(64) float sums[kBlockRows * kLanes];
  std::memset(sums, 0, static_cast<size_t>(call.tiling.rows * kLanes) * sizeof(float));
  alignas(64) float weights[D::kElements * kLanes];
  Strips<D> s(call, strip);
  const int64_t blocks = call.geometry.blocks;
  for (int64_t b = 0; b < blocks; ++b, s.next()) {
    decode_floats<D>(s.strip, weights);
    for (int64_t tile = 0; tile < call.tiling.tiles; ++tile) {
      const int64_t height = call.tiling.height(tile), row = call.tiling.first(tile);
      const int32_t* x = call.x + (row * blocks + b * height) * D::kElements;
      kTiles[height - 1](weights, D::kElements, reinterpret_cast<const float*>(x),
                         sums + row * kLanes);
    }
  }
  write_strip(call, 0, call.tiling.rows, strip, sums, kLanes);
}
