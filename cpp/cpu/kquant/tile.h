// The tile: R rows of x by one strip of the weight, whose codes are decoded in registers. Included
// by loops.h.

template <class D, int R, int part>
QCORE_INLINE void multiply_part(const Strip& s, int chunk, const int32_t* x, Ints (&acc)[R]) {
  const Ints codes = D::template codes<part>(s, chunk);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) acc[r] = dot<is_signed<D>>(acc[r], codes, x + part * R + r);
}

template <class D, int R, int first, int... part>
QCORE_INLINE void multiply_parts(const Strip& s, int chunk, const int32_t* x, Ints (&acc)[R],
                                 std::integer_sequence<int, part...>) {
  (multiply_part<D, R, first + part>(s, chunk, x, acc), ...);
}

// The sums of one group of a chunk, without its scale.
template <class D, int R, int group>
QCORE_INLINE void sum_group(const Strip& s, int chunk, const int32_t* x, const int32_t* start,
                            Ints (&acc)[R]) {
  constexpr int kParts = D::kGroup / 4;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) acc[r] = kStarts<D> ? splat(start[group * R + r]) : splat(0);
  multiply_parts<D, R, group * kParts>(s, chunk, x, acc, std::make_integer_sequence<int, kParts>());
}

// total += scale * sum, for a group, or for two.
template <class D, int R, int index>
QCORE_INLINE void multiply_group(const Strip& s, int chunk, const int32_t* x, const int32_t* start,
                                 const int32_t* scales, Ints (&total)[R]) {
  const Ints scale = load_ints(scales + index * kLanes);
  Ints acc[R];
  if constexpr (D::kPaired) {
    constexpr int kShift = D::shift(2 * index * (D::kGroup / 4));
    Ints second[R];
    sum_group<D, R, 2 * index>(s, chunk, x, start, acc);
    sum_group<D, R, 2 * index + 1>(s, chunk, x, start, second);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      total[r] = dot_pairs(total[r], make_pairs<kShift>(acc[r], second[r]), scale);
    }
  } else {
    sum_group<D, R, index>(s, chunk, x, start, acc);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) total[r] = add(total[r], multiply(acc[r], scale));
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) settle(total[r]);
}

template <class D, int R, int... index>
QCORE_INLINE void multiply_groups(const Strip& s, int chunk, const int32_t* x, const int32_t* start,
                                  const int32_t* scales, Ints (&total)[R],
                                  std::integer_sequence<int, index...>) {
  (multiply_group<D, R, index>(s, chunk, x, start, scales, total), ...);
}

// Tiles of so many rows ask for the weights in advance, a page ahead and into the second cache:
// into the first one, or nearer, is slower by up to a quarter. With fewer rows the hardware
// prefetcher keeps up alone and is faster if left alone, by as much; but where a block is read from
// two places (block16.h) it needs to be led too, if there is enough to read for the work on it.
constexpr int kPrefetchRows = 4;
constexpr int64_t kPrefetchBytes = 4096;

template <class D, int R>
QCORE_INLINE void prefetch_ahead(const Strip& s, int chunk) {
  constexpr int64_t kBytes = sizeof(typename D::Format);
  constexpr bool kTwoPlaces = kBytes % 4 != 0 && kBytes * 3 > D::kElements;
  if constexpr (R >= kPrefetchRows || kTwoPlaces) {
    constexpr int64_t kLines = ceil_div(kBytes / 4, D::kChunks);
    const uint8_t* ahead = s.dwords + kPrefetchBytes + chunk * kLines * 64;
    for (int64_t i = 0; i < kLines; ++i) prefetch_far(ahead + i * 64);
  }
}

// The integer sums of one block.
template <class D, int R>
QCORE_INLINE void multiply_block(const Strip& s, const int32_t* x, Ints (&total)[R]) {
  using W = Words<D>;
  if constexpr (D::kScaled) {
    constexpr int kGroupsOfChunk = kGroups<D> / D::kChunks;
    constexpr int kScalesOfChunk = kGroupsOfChunk / (D::kPaired ? 2 : 1);
    alignas(64) int32_t scales[kGroups<D> * kLanes];
    D::scales(s, scales);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) total[r] = splat(0);
#pragma GCC unroll 1
    for (int chunk = 0; chunk < D::kChunks; ++chunk) {
      prefetch_ahead<D, R>(s, chunk);
      multiply_groups<D, R>(s, chunk, x + (W::kX + chunk * D::kParts) * R,
                            x + (W::kStart + chunk * kGroupsOfChunk) * R,
                            scales + chunk * kScalesOfChunk * kLanes, total,
                            std::make_integer_sequence<int, kScalesOfChunk>());
    }
  } else {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) total[r] = kStarts<D> ? splat(x[W::kStart * R + r]) : splat(0);
#pragma GCC unroll 1
    for (int chunk = 0; chunk < D::kChunks; ++chunk) {
      prefetch_ahead<D, R>(s, chunk);
      multiply_parts<D, R, 0>(s, chunk, x + (W::kX + chunk * D::kParts) * R, total,
                              std::make_integer_sequence<int, D::kParts>());
    }
  }
}

// Sums of minima, for `minima(quad)` of one strip.
template <class D, int R, class Load>
QCORE_INLINE void multiply_minima(const int32_t* x, Load minima, Ints (&total)[R]) {
  using W = Words<D>;
  Ints high[R], low[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) high[r] = low[r] = splat(0);
#pragma GCC unroll 4
  for (int quad = 0; quad < kQuads<D>; ++quad) {
    const Ints m = minima(quad);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      high[r] = dot<false>(high[r], m, x + (W::kHigh + quad) * R + r);
      low[r] = dot<false>(low[r], m, x + (W::kLow + quad) * R + r);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) total[r] = add(shift_left<6>(high[r]), low[r]);
}

QCORE_INLINE Floats splat_float(const int32_t* word) {
  return as_floats(splat(*word));
}

template <class D, int R>
QCORE_INLINE void direct_block(const Strip& s, const int32_t* x, Floats (&acc)[R]) {
  using W = Words<D>;
  Ints total[R];
  multiply_block<D, R>(s, x, total);
  const Floats d = D::d(s);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    acc[r] = fma(multiply(to_floats(total[r]), splat_float(x + W::kScale * R + r)), d, acc[r]);
  }
  if constexpr (D::kMinima != Minima::none) {
    const Floats less = negate(D::minimum(s));
    if constexpr (D::kMinima == Minima::one) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) acc[r] = fma(splat_float(x + W::kSum * R + r), less, acc[r]);
    } else {
      multiply_minima<D, R>(x, [&](int quad) QCORE_LAMBDA { return D::minima(s, quad); }, total);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        acc[r] =
            fma(multiply(to_floats(total[r]), splat_float(x + W::kScale * R + r)), less, acc[r]);
      }
    }
  }
}

// One tile of R rows by one strip.
template <class D, int R>
void direct_strip(const Call& call, int64_t tile, int64_t strip) {
  Strips<D> s(call, strip);
  const int32_t* x = call.x + call.tiling.first(tile) * call.geometry.blocks * Words<D>::kCount;
  Floats acc[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) acc[r] = splat(0.0f);
  for (int64_t b = 0; b < call.geometry.blocks; ++b, s.next(), x += Words<D>::kCount * R) {
    direct_block<D, R>(s.strip, x, acc);
  }
  alignas(64) float totals[R][kLanes];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) store(totals[r], acc[r]);
  write_strip(call, call.tiling.first(tile), R, strip, totals[0], kLanes);
}

// Tiles inside, so that the strips of a step are still in the cache for the next tile.
constexpr int64_t kStepStrips = 64 / kLanes;

template <class D, int... R>
void direct_strips(const Call& call, int64_t begin, int64_t end, std::integer_sequence<int, R...>) {
  using Function = void (*)(const Call&, int64_t, int64_t);
  static constexpr Function kTiles[] = {direct_strip<D, R + 1>...};
  for (int64_t step = begin; step < end; step += kStepStrips) {
    for (int64_t tile = 0; tile < call.tiling.tiles; ++tile) {
      const Function run = kTiles[call.tiling.height(tile) - 1];
      for (int64_t s = step; s < std::min(end, step + kStepStrips); ++s) run(call, tile, s);
    }
  }
}
