// The quantizers, written once for every instruction set. A file that instantiates them opens a
// target region and a namespace, includes a vocabulary (simd/<isa>.h) and then this file.
//
// A row is read into floats, padded with zeros, which change no extreme; normalised there if that
// is asked for; then rounded. The roundings are those of quantize.h, so that all rows agree.

inline constexpr int kWidth = 16;

QCORE_INLINE Floats16 load_as(DType dtype, const void* p) {
  if (dtype == DType::f32) return load_floats<Floats16>(p);
  return dtype == DType::f16 ? load_f16<Floats16>(p) : load_bf16<Floats16>(p);
}

// The first `count` of a vector, zeros behind them.
inline Floats16 load_as(DType dtype, const char* p, int64_t count) {
  alignas(64) char padded[kWidth * 4] = {};
  std::memcpy(padded, p, static_cast<size_t>(count * size_of(dtype)));
  return load_as(dtype, padded);
}

// fetch(k) for whole vectors, the last one padded.
QCORE_INLINE Floats16 load_at(DType dtype, const void* base, int64_t k, int64_t count) {
  const char* p = static_cast<const char*>(base) + k * size_of(dtype);
  return count - k >= kWidth ? load_as(dtype, p) : load_as(dtype, p, count - k);
}

inline int64_t padded(int64_t k) {
  return ceil_div(k, kWidth) * kWidth;
}

// Row m as floats, `row` of padded(K).
inline void load_row(const FloatRows& x, int64_t m, float* row) {
  const char* from = static_cast<const char*>(x.x) + m * x.stride * size_of(x.dtype);
  Floats16 squares = splat<Floats16>(0.0f);
  for (int64_t k = 0; k < x.k; k += kWidth) {
    const Floats16 v = load_at(x.dtype, from, k, x.k);
    squares = fma(v, v, squares);
    store(row + k, v);
  }
  if (!x.norm_weight) return;
  alignas(64) float lanes[kWidth];
  store(lanes, squares);
  for (int half = kWidth / 2; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  }
  const float mean = lanes[0] / static_cast<float>(x.k);
  const Floats16 factor = splat<Floats16>(1.0f / std::sqrt(mean + x.norm_eps));
  for (int64_t k = 0; k < x.k; k += kWidth) {
    const Floats16 weight = load_at(x.norm_dtype, x.norm_weight, k, x.k);
    // What is padded stays 0, also behind an infinite factor.
    const Floats16 v = multiply(multiply(load_floats<Floats16>(row + k), factor), weight);
    store(row + k, v);
  }
  for (int64_t k = x.k; k < padded(x.k); ++k) row[k] = 0;
}

// `count` elements, padded to whole vectors with zeros.
inline RowExtremes extremes_of(const float* x, int64_t count) {
  Floats16 low = splat<Floats16>(0.0f), high = low, nothing = low;
  for (int64_t k = 0; k < count; k += kWidth) {
    const Floats16 v = load_floats<Floats16>(x + k);
    low = smaller(v, low);
    high = larger(v, high);
    nothing = fma(v, splat<Floats16>(0.0f), nothing);  // 0, or NaN
  }
  RowExtremes e;
  e.low = least_of(low);
  e.high = most_of(high);
  e.finite = !any_nan(nothing);
  for (int64_t k = 0; !e.finite && k < count; k += kWidth) {
    e.nan = e.nan || any_nan(load_floats<Floats16>(x + k));
  }
  return e;
}

inline void round_int8(const float* x, int64_t count, Int8Parameters p, int8_t* q) {
  const Floats16 scale = splat<Floats16>(p.scale),
                 low = splat<Floats16>(static_cast<float>(-128 - p.zero)),
                 high = splat<Floats16>(static_cast<float>(127 - p.zero));
  for (int64_t k = 0; k < count; k += kWidth) {
    const Floats16 rounded = round_to_even(divide(load_floats<Floats16>(x + k), scale));
    const Ints16 codes =
        add(round_to_ints(smaller(larger(rounded, low), high)), splat<Ints16>(p.zero));
    if (count - k >= kWidth) {
      store_bytes(q + k, codes);
    } else {
      int8_t last[kWidth];
      store_bytes(last, codes);
      std::memcpy(q + k, last, static_cast<size_t>(count - k));
    }
  }
}

// To 8-bit floats with `mantissa` bits whose least normal number is 2^least; of numbers that are
// not too large.
template <int mantissa, int least>
QCORE_INLINE Ints16 to_float8(Floats16 a) {
  constexpr int kShift = 23 - mantissa;
  const Ints16 u = bits_of(a);
  const Ints16 sign = both(shift_right<24>(u), splat<Ints16>(0x80));
  const Ints16 magnitude = both(u, splat<Ints16>(0x7fffffff));
  const Ints16 odd = both(shift_right<kShift>(magnitude), splat<Ints16>(1));
  const Ints16 half = add(odd, splat<Ints16>((1 << (kShift - 1)) - 1 - ((126 + least) << 23)));
  const Ints16 normal = shift_right<kShift>(add(magnitude, half));
  // Below the least normal number the step is that of a float around 2^(kShift + least): adding it
  // rounds.
  const Ints16 step = splat<Ints16>((127 + kShift + least) << 23);
  const Ints16 small = sub(bits_of(add(as_floats(magnitude), as_floats(step))), step);
  const Ints16 bits = select_less(magnitude, splat<Ints16>((127 + least) << 23), small, normal);
  const Ints16 infinity = splat<Ints16>(0x7f800000);
  return either(sign, select_less(infinity, magnitude, splat<Ints16>(0x7f), bits));
}

template <int mantissa, int least>
void round_fp8_to(const float* x, int64_t count, float most, float scale, uint8_t* q) {
  const Floats16 by = splat<Floats16>(scale), low = splat<Floats16>(-most),
                 high = splat<Floats16>(most);
  for (int64_t k = 0; k < count; k += kWidth) {
    const Floats16 value = larger(low, smaller(high, divide(load_floats<Floats16>(x + k), by)));
    const Ints16 codes = to_float8<mantissa, least>(value);
    if (count - k >= kWidth) {
      store_bytes(q + k, codes);
    } else {
      uint8_t last[kWidth];
      store_bytes(last, codes);
      std::memcpy(q + k, last, static_cast<size_t>(count - k));
    }
  }
}

inline void round_fp8(const float* x, int64_t count, Float8 type, float scale, uint8_t* q) {
  if (type == Float8::e4m3) return round_fp8_to<3, -6>(x, count, max_of(type), scale, q);
  round_fp8_to<2, -14>(x, count, max_of(type), scale, q);
}

// work(m, row) for all rows, on all threads.
template <class Work>
Status each_row(const char* op, const FloatRows& x, const Parallel& parallel, Work&& work) {
  std::atomic<bool> failed = false;
  parallel.for_range(x.m, rows_per_piece(x.k), [&](int64_t begin, int64_t end) {
    const ExactSubnormals mode;
    const FloatArray row = allocate_floats(padded(x.k));
    if (!row) return failed.store(true);
    for (; begin < end; ++begin) {
      load_row(x, begin, row.get());
      work(begin, row.get());
    }
  });
  if (!failed) return {};
  return {StatusCode::out_of_memory, std::string(op) + ": no memory for a copy of a row"};
}

// The extremes of all of x.
inline Status extremes_of(const char* op, const FloatRows& x, const Parallel& parallel,
                          RowExtremes& all) {
  const ExtremesArray rows = allocate_extremes(x.m);
  if (!rows) return {StatusCode::out_of_memory, std::string(op) + ": no memory for extremes"};
  Status status = each_row(op, x, parallel, [&](int64_t m, const float* row) {
    rows[static_cast<size_t>(m)] = extremes_of(row, x.k);
  });
  for (int64_t m = 0; m < x.m; ++m) all.add(rows[static_cast<size_t>(m)]);
  return status;
}

Status quantize_int8(const QuantizeInt8Args& args, const Executor& executor) {
  const char* const op = "quantize_int8";
  const FloatRows& x = args.x;
  const bool whole = args.granularity == Granularity::tensor;
  Int8Parameters shared;
  if (whole && !args.given_scale) {
    RowExtremes e;
    if (Status status = extremes_of(op, x, executor.parallel, e); !status.ok()) return status;
    const ExactSubnormals mode;
    shared = int8_parameters(args.symmetric, e.low, e.high, e.finite);
  }
  return each_row(op, x, executor.parallel, [&](int64_t m, const float* row) {
    const int64_t at = whole ? 0 : m;
    Int8Parameters p = shared;
    if (args.given_scale) {
      p = {args.given_scale[at], args.given_zero ? args.given_zero[at] : 0};
    } else if (!whole) {
      const RowExtremes e = extremes_of(row, x.k);
      p = int8_parameters(args.symmetric, e.low, e.high, e.finite);
    }
    round_int8(row, x.k, p, args.q + m * x.k);
    if (whole && m > 0) return;
    if (args.scale) args.scale[at] = p.scale;
    if (args.zero) args.zero[at] = p.zero;
  });
}

Status quantize_fp8(const QuantizeFp8Args& args, const Executor& executor) {
  const char* const op = "quantize_fp8";
  const FloatRows& x = args.x;
  const bool whole = args.granularity == Granularity::tensor;
  const int64_t block = args.granularity == Granularity::block ? kScaleBlock : x.k;
  const int64_t blocks = ceil_div(x.k, block);
  float shared = 1;
  if (whole && !args.given_scale) {
    RowExtremes e;
    if (Status status = extremes_of(op, x, executor.parallel, e); !status.ok()) return status;
    const ExactSubnormals mode;
    shared = fp8_scale(args.type, e.amax());
  }
  return each_row(op, x, executor.parallel, [&](int64_t m, const float* row) {
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = b * block, count = std::min(block, x.k - first);
      const int64_t at = whole ? 0 : m * blocks + b;
      float scale = shared;
      if (args.given_scale) {
        scale = args.given_scale[at];
      } else if (!whole) {
        scale = fp8_scale(args.type, extremes_of(row + first, count).amax());
      }
      round_fp8(row + first, count, args.type, scale, args.q + m * x.k + first);
      if (args.scale && (!whole || m == 0)) args.scale[at] = scale;
    }
  });
}
