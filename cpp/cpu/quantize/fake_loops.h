// The loops of fake_quantize and its backward pass, written once for every instruction set;
// included behind loops.h. They do what fake_quantize.h defines, so that all rows agree to the bit.

// Up to 16 numbers at p, zeros behind them.
QCORE_INLINE Floats16 load_part(const float* p, int64_t left) {
  return left >= kWidth ? load_floats<Floats16>(p)
                        : load_as(DType::f32, reinterpret_cast<const char*>(p), left);
}

QCORE_INLINE void store_as(DType dtype, void* p, Floats16 a) {
  if (dtype == DType::f32) {
    store(p, a);
  } else if (dtype == DType::f16) {
    store_f16(p, a);
  } else {
    store_bf16(p, a);
  }
}

// Up to 16 numbers from index `at` on.
QCORE_INLINE void store_part(DType dtype, void* base, int64_t at, Floats16 a, int64_t left) {
  char* const p = static_cast<char*>(base) + at * size_of(dtype);
  if (left >= kWidth) return store_as(dtype, p, a);
  alignas(64) char last[kWidth * 4];
  store_as(dtype, last, a);
  std::memcpy(p, last, static_cast<size_t>(left * size_of(dtype)));
}

// v where that is NaN.
QCORE_INLINE Floats16 keep_nan(Floats16 v, Floats16 otherwise) {
  const Ints16 magnitude = both(bits_of(v), splat<Ints16>(0x7fffffff));
  return as_floats(
      select_less(splat<Ints16>(0x7f800000), magnitude, bits_of(v), bits_of(otherwise)));
}

// What a number becomes: where it was before it was clamped, and the element less its zero.
struct Found {
  Floats16 before, value;
};

struct RoundToIntegers {
  Floats16 zero, low, high;

  RoundToIntegers(const TiledElements& grid, float z)
      : zero(splat<Floats16>(z)),
        low(splat<Floats16>(0.0f)),
        high(splat<Floats16>(static_cast<float>((1 << bits_of(grid.elements)) - 1))) {}

  QCORE_INLINE Found find(Floats16 quotient) const {
    const Floats16 before = add(round_to_even(quotient), zero);
    return {before, sub(smaller(high, larger(low, before)), zero)};  // in this order NaN stays
  }
};

template <int mantissa, int least>
struct RoundToFloats {
  Floats16 low, high;

  RoundToFloats(const TiledElements& grid, float)
      : low(splat<Floats16>(-max_of(float8_of(grid.elements)))),
        high(splat<Floats16>(max_of(float8_of(grid.elements)))) {}

  QCORE_INLINE Found find(Floats16 quotient) const {
    const Ints16 code = to_float8<mantissa, least>(smaller(high, larger(low, quotient)));
    // Exponent and mantissa move to where a float has them; then the exponent is too low.
    const Ints16 magnitude = shift_left<23 - mantissa>(both(code, splat<Ints16>(0x7f)));
    const Ints16 sign = shift_left<24>(both(code, splat<Ints16>(0x80)));
    const Floats16 up = as_floats(splat<Ints16>((253 + least) << 23));
    const Floats16 value = as_floats(either(bits_of(multiply(as_floats(magnitude), up)), sign));
    return {quotient, keep_nan(quotient, value)};
  }
};

struct RoundToNumbers {
  const TiledElements& grid;
  Floats16 low, high;

  RoundToNumbers(const TiledElements& of, float)
      : grid(of),
        low(splat<Floats16>(of.numbers[0])),
        high(splat<Floats16>(of.numbers[of.count - 1])) {}

  QCORE_INLINE Found find(Floats16 quotient) const {
    Floats16 value = low;
    for (int64_t i = 1; i < grid.count; ++i) {
      const float border = (grid.numbers[i] + grid.numbers[i - 1]) / 2;
      value =
          select_less(splat<Floats16>(border), quotient, splat<Floats16>(grid.numbers[i]), value);
    }
    return {quotient, keep_nan(quotient, value)};
  }
};

// body.template operator()<Rule>() for how the elements round.
template <class Body>
void with_rule(const TiledElements& grid, Body&& body) {
  if (grid.numbers) return body.template operator()<RoundToNumbers>();
  if (!is_float(grid.elements)) return body.template operator()<RoundToIntegers>();
  if (grid.elements == Elements::e4m3) return body.template operator()<RoundToFloats<3, -6>>();
  body.template operator()<RoundToFloats<2, -14>>();
}

// `count` numbers from x on, which need not fill whole vectors.
inline RowExtremes extremes_of_part(const float* x, int64_t count) {
  const int64_t whole = count / kWidth * kWidth;
  RowExtremes e = extremes_of(x, whole);
  if (whole == count) return e;
  alignas(64) float last[kWidth];
  store(last, load_part(x + whole, count - whole));
  e.add(extremes_of(last, kWidth));
  return e;
}

template <class Rule>
void fake_part(const FakeQuantizeArgs& args, const float* w, int64_t at, int64_t count,
               TileScale t) {
  const Rule rule(args.grid, t.zero);
  const Floats16 scale = splat<Floats16>(t.scale);
  for (int64_t k = 0; k < count; k += kWidth) {
    const Floats16 quotient = divide(load_part(w + k, count - k), scale);
    const Floats16 y = multiply(rule.find(quotient).value, scale);
    store_part(args.w.dtype, args.y, at + k, y, count - k);
  }
}

Status fake_quantize(const FakeQuantizeArgs& args, const Executor& executor) {
  const char* const op = "fake_quantize";
  const FloatRows& w = args.w;
  const TiledElements& grid = args.grid;
  const int64_t groups = grid.groups(w.k), bands = grid.bands(w.m);
  const auto each_group = [&](auto&& work) QCORE_LAMBDA {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * grid.columns;
      work(g, first, std::min(grid.columns, w.k - first));
    }
  };
  const auto write = [&](int64_t tile, TileScale t) {
    if (args.scale) args.scale[tile] = t.scale;
    if (args.zero) args.zero[tile] = t.zero;
  };

  // Tiles of several rows: their scales come first.
  std::unique_ptr<TileScale[]> found;
  if (!args.given_scale && grid.rows > 1) {
    const ExtremesArray extremes = allocate_extremes(w.m * groups);
    found.reset(new (std::nothrow) TileScale[static_cast<size_t>(bands * groups)]);
    if (!extremes || !found) return no_memory_for(op, "the scales");
    Status status = each_row(op, w, executor.parallel, [&](int64_t n, const float* row) {
      each_group([&](int64_t g, int64_t first, int64_t count) {
        extremes[static_cast<size_t>(n * groups + g)] = extremes_of_part(row + first, count);
      });
    });
    if (!status.ok()) return status;
    const ExactSubnormals mode;
    for (int64_t tile = 0; tile < bands * groups; ++tile) {
      const int64_t band = tile / groups, last = std::min((band + 1) * grid.rows, w.m);
      RowExtremes e;
      for (int64_t n = band * grid.rows; n < last; ++n) {
        e.add(extremes[static_cast<size_t>(n * groups + tile % groups)]);
      }
      found[static_cast<size_t>(tile)] = scale_of_tile(args, e);
    }
  }

  return each_row(op, w, executor.parallel, [&](int64_t n, const float* row) {
    with_rule(grid, [&]<class Rule>() {
      each_group([&](int64_t g, int64_t first, int64_t count) {
        const int64_t tile = n / grid.rows * groups + g;
        TileScale t;
        if (args.given_scale) {
          t = given_scale_of_tile(args, tile);
        } else if (found) {
          t = found[static_cast<size_t>(tile)];
        } else {
          t = scale_of_tile(args, extremes_of_part(row + first, count));
        }
        if (n % grid.rows == 0) write(tile, t);
        fake_part<Rule>(args, row + first, n * w.k + first, count, t);
      });
    });
  });
}

struct ScaleSums {
  float scale, outside;  // of dscale; of dy outside
};

inline float sum_of_lanes(Floats16 a) {
  alignas(64) float lanes[kWidth];
  store(lanes, a);
  for (int half = kWidth / 2; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  }
  return lanes[0];
}

template <class Rule, bool learns>
ScaleSums backward_part(const FakeQuantizeBackwardArgs& args, const float* w, const char* dy,
                        int64_t at, int64_t count, TileScale t) {
  const Rule rule(args.grid, t.zero);
  const Floats16 scale = splat<Floats16>(t.scale), nothing = splat<Floats16>(0.0f);
  Floats16 of_scale = nothing, of_zero = nothing;
  for (int64_t k = 0; k < count; k += kWidth) {
    const Floats16 quotient = divide(load_part(w + k, count - k), scale);
    const Floats16 gradient = load_at(args.dy.dtype, dy, k, count);
    const Found found = rule.find(quotient);
    const auto inside = [&](Floats16 yes, Floats16 no) QCORE_LAMBDA {
      return select_less(found.before, rule.low, no, select_less(rule.high, found.before, no, yes));
    };
    const Floats16 dw = args.passes_outside ? gradient : inside(gradient, nothing);
    store_part(args.w.dtype, args.dw, at + k, dw, count - k);
    if constexpr (learns) {
      of_scale = fma(gradient, sub(found.value, inside(quotient, nothing)), of_scale);
      of_zero = add(of_zero, inside(nothing, gradient));
    }
  }
  if constexpr (!learns) return {};
  return {sum_of_lanes(of_scale), sum_of_lanes(of_zero)};
}

Status fake_quantize_backward(const FakeQuantizeBackwardArgs& args, const Executor& executor) {
  const char* const op = "fake_quantize_backward";
  const FloatRows &w = args.w, &dy = args.dy;
  const TiledElements& grid = args.grid;
  const int64_t groups = grid.groups(w.k), bands = grid.bands(w.m);
  const bool learns = args.dscale || args.dzero;
  std::unique_ptr<ScaleSums[]> sums;  // of each row
  if (learns) {
    sums.reset(new (std::nothrow) ScaleSums[static_cast<size_t>(w.m * groups)]);
    if (!sums) return no_memory_for(op, "the gradients of the scales");
  }
  Status status = each_row(op, w, executor.parallel, [&](int64_t n, const float* row) {
    with_rule(grid, [&]<class Rule>() {
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t first = g * grid.columns, tile = n / grid.rows * groups + g;
        const TileScale t{args.scale[tile], zero_of(grid, args.zero, tile)};
        const char* const from =
            static_cast<const char*>(dy.x) + (n * dy.stride + first) * size_of(dy.dtype);
        const int64_t at = n * w.k + first, count = std::min(grid.columns, w.k - first);
        if (!learns) {
          backward_part<Rule, false>(args, row + first, from, at, count, t);
        } else {
          sums[static_cast<size_t>(n * groups + g)] =
              backward_part<Rule, true>(args, row + first, from, at, count, t);
        }
      }
    });
  });
  if (!status.ok() || !learns) return status;
  const ExactSubnormals mode;
  for (int64_t tile = 0; tile < bands * groups; ++tile) {
    const int64_t first = tile / groups * grid.rows, last = std::min(first + grid.rows, w.m);
    ScaleSums all{};
    for (int64_t n = first; n < last; ++n) {
      const ScaleSums& row = sums[static_cast<size_t>(n * groups + tile % groups)];
      all.scale += row.scale;
      all.outside += row.outside;
    }
    if (args.dscale) args.dscale[tile] = all.scale;
    if (args.dzero) args.dzero[tile] = -args.scale[tile] * all.outside;
  }
  return {};
}
