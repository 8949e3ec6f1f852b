// What all encoders share: loading blocks into lanes, the nearest code, the nearest half, writing
// the result.
#pragma once

using F = Floats;

QCORE_INLINE F operator+(F a, F b) {
  return add(a, b);
}
QCORE_INLINE F operator-(F a, F b) {
  return sub(a, b);
}
QCORE_INLINE F operator*(F a, F b) {
  return multiply(a, b);
}
QCORE_INLINE F operator/(F a, F b) {
  return divide(a, b);
}
QCORE_INLINE F number(auto a) {
  return splat(static_cast<float>(a));
}

// kLanes blocks. `unit` is the power of two that x was divided by.
struct Lanes {
  const F* x;
  const F* p;  // null if all are 1
  F unit, inverse_unit;
};

// The result, all scales in the unit of x.
template <class B>
struct Fit {
  static constexpr int kGroups = B::kElements / B::kGroup;
  F d, dmin;
  F scales[kGroups], mins[kGroups];
  alignas(64) uint8_t codes[B::kElements * kLanes];
};

QCORE_INLINE F nearest_integer(F a) {  // |a| < 2^22
  const F shift = number(0x1.8p23f);
  return (a + shift) - shift;
}
QCORE_INLINE F clamp(F a, F low, F high) {
  return smaller(larger(a, low), high);
}
// 0 where |b| is so small that the quotient could overflow.
QCORE_INLINE F quotient(F a, F b) {
  const F tiny = number(0x1p-100f), size = magnitude(b);
  return select_less(size, tiny, number(0), a / select_less(size, tiny, number(1), b));
}
// p[i] * a
template <bool W>
QCORE_INLINE F weighted(const F* p, int i, F a) {
  if constexpr (W) {
    return p[i] * a;
  } else {
    return a;
  }
}

// ---- in and out ----

inline float power_of_two(int exponent) {  // -126 .. 127
  return std::bit_cast<float>(static_cast<uint32_t>(exponent + 127) << 23);
}

// The exponent of the largest magnitude, as far as both 2^e and 2^-e are normal numbers.
template <int n>
int largest_exponent(const float* values) {
  int top = 0;
  for (int i = 0; i < n; ++i) {
    top = std::max(top, static_cast<int>(std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu));
  }
  return std::clamp((top >> 23) - 127, -126, 126);
}

template <int n>
void load_weights(const float* w, int lanes, F* x, Lanes& in) {
  alignas(64) float unit[kLanes], inverse[kLanes];
  float* const to = reinterpret_cast<float*>(x);
  for (int lane = 0; lane < kLanes; ++lane) {
    const float* from = w + lane * n;
    const int exponent = lane < lanes ? largest_exponent<n>(from) : 0;
    unit[lane] = power_of_two(exponent);
    inverse[lane] = power_of_two(-exponent);
    for (int i = 0; i < n; ++i) {
      to[i * kLanes + lane] = lane < lanes ? from[i] * inverse[lane] : 0.0f;
    }
  }
  in.unit = load_floats(unit);
  in.inverse_unit = load_floats(inverse);
}

// An importance of zero is raised to a millionth of the largest, so that no sum of weights is zero.
template <int n>
void load_importance(const float* importance, int lanes, F* p) {
  float* const to = reinterpret_cast<float*>(p);
  for (int lane = 0; lane < kLanes; ++lane) {
    const float* from = importance + lane * n;
    const float inverse = lane < lanes ? power_of_two(-largest_exponent<n>(from)) : 0.0f;
    bool all_zero = true;
    for (int i = 0; i < n; ++i) {
      const float value = lane < lanes ? from[i] * inverse : 0.0f;
      all_zero &= value == 0.0f;
      to[i * kLanes + lane] = std::max(value, 0x1p-20f);
    }
    if (all_zero) {
      for (int i = 0; i < n; ++i) to[i * kLanes + lane] = 1.0f;
    }
  }
}

template <class B>
void write_fits(const Lanes& in, const Fit<B>& fit, int lanes, BlockFit* fits) {
  alignas(64) float d[kLanes], dmin[kLanes], scales[kLanes], mins[kLanes];
  store(d, fit.d * in.unit + number(0));  // never minus zero
  store(dmin, fit.dmin * in.unit + number(0));
  for (int lane = 0; lane < lanes; ++lane) {
    fits[lane].d = d[lane];
    fits[lane].dmin = dmin[lane];
    for (int i = 0; i < B::kElements; ++i) fits[lane].codes[i] = fit.codes[i * kLanes + lane];
  }
  for (int g = 0; g < Fit<B>::kGroups; ++g) {
    store(scales, fit.scales[g]);
    store(mins, fit.mins[g]);
    for (int lane = 0; lane < lanes; ++lane) {
      fits[lane].scales[g] = static_cast<int16_t>(scales[lane]);
      fits[lane].mins[g] = static_cast<int16_t>(mins[lane]);
    }
  }
}

// ---- the nearest of what can be stored ----

// What no block may exceed: the error of zeros.
template <int n, bool W>
QCORE_INLINE F error_of_zero(const F* x, const F* p) {
  F error = number(0);
  for (int i = 0; i < n; ++i) error = error + weighted<W>(p, i, x[i]) * x[i];
  return error;
}

// The nearest half of a * unit, in the unit of a; never infinite.
QCORE_INLINE F nearest_half(const Lanes& in, F a) {
  const F value = clamp(a * in.unit, number(-65504.0f), number(65504.0f));
  const F product = value * number(0x1p13f + 1);  // Veltkamp: leaves 11 bits
  const F normal = product - (product - value);
  const F shift = number(0.75f);  // in whose binade floats are 2^-24 apart, as are subnormal halves
  const F subnormal = (value + shift) - shift;
  return select_less(magnitude(value), number(0x1p-14f), subnormal, normal) * in.inverse_unit;
}

// The least and largest value that an encoder writes.
template <class B>
constexpr int low_value() {
  // Kernels that negate a byte cannot read -128.
  return std::is_same_v<B, blocks::Q8_0> ? -127 : B::value(0);
}
template <class B>
constexpr int high_value() {
  return std::is_same_v<B, blocks::TQ2_0> ? 1 : B::value(B::kCodes - 1);
}
template <class B>
constexpr bool has_even_values() {
  return B::value(B::kCodes - 1) - B::value(0) == B::kCodes - 1;
}

// The value nearest to t. Uneven ones ascend with their codes, or are eight magnitudes and their
// negatives.
template <class B>
QCORE_INLINE F nearest_value(F t) {
  if constexpr (has_even_values<B>()) {
    return clamp(nearest_integer(t), number(low_value<B>()), number(high_value<B>()));
  } else if constexpr (B::value(0) == 0) {
    const F size = magnitude(t);
    F v = number(0);
    for (int code = 1; code < 8; ++code) {
      const float between = static_cast<float>(B::value(code) + B::value(code - 1)) / 2;
      v = select_less(number(between), size, number(static_cast<float>(B::value(code))), v);
    }
    return select_less(t, number(0), number(0) - v, v);
  } else {
    F v = number(static_cast<float>(B::value(0)));
    for (int code = 1; code < B::kCodes; ++code) {
      const float between = static_cast<float>(B::value(code) + B::value(code - 1)) / 2;
      v = select_less(number(between), t, number(static_cast<float>(B::value(code))), v);
    }
    return v;
  }
}

// Its code.
template <class B>
QCORE_INLINE F code_of(F v) {
  if constexpr (has_even_values<B>()) {
    return v - number(static_cast<float>(B::value(0)));
  } else {
    constexpr bool kMagnitudes = B::value(0) == 0;
    const F size = kMagnitudes ? magnitude(v) : v;
    F code = number(0);
    for (int c = 1; c < (kMagnitudes ? 8 : B::kCodes); ++c) {
      const F below = number(static_cast<float>(B::value(c)) - 0.5f);
      code = select_less(below, size, number(static_cast<float>(c)), code);
    }
    return kMagnitudes ? select_less(v, number(0), code + number(8), code) : code;
  }
}

// ---- with a scale ----

// Of the values nearest to x / scale: sums of p v x and p v^2.
struct Sums {
  F vx, vv;
};
template <class B, int n, bool W>
QCORE_INLINE Sums sums_of(const F* x, const F* p, F inverse_scale) {
  Sums s{number(0), number(0)};
  for (int i = 0; i < n; ++i) {
    const F v = nearest_value<B>(x[i] * inverse_scale);
    const F pv = weighted<W>(p, i, v);
    s.vx = s.vx + pv * x[i];
    s.vv = s.vv + pv * v;
  }
  return s;
}

// The error of scale * v.
template <class B, int n, bool W>
QCORE_INLINE F error_of(const F* x, const F* p, F scale) {
  const F inverse = quotient(number(1), scale);
  F error = number(0);
  for (int i = 0; i < n; ++i) {
    const F r = x[i] - scale * nearest_value<B>(x[i] * inverse);
    error = error + weighted<W>(p, i, r) * r;
  }
  return error;
}

template <class B, int n>
QCORE_INLINE void write_codes(const F* x, F scale, uint8_t* codes) {
  const F inverse = quotient(number(1), scale);
  for (int i = 0; i < n; ++i) {
    store_bytes(codes + i * kLanes, round_to_ints(code_of<B>(nearest_value<B>(x[i] * inverse))));
  }
}

// ---- with a scale and a minimum ----

template <class B>
QCORE_INLINE F nearest_code(F x, F inverse_scale, F min) {
  const F t = nearest_integer((x + min) * inverse_scale);
  return clamp(t, number(0), number(B::kCodes - 1));
}

// Of the codes c nearest to (x + min) / scale: sums of p c, p c^2, p c x.
struct MinSums {
  F c, cc, cx;
};
template <class B, int n, bool W>
QCORE_INLINE MinSums min_sums_of(const F* x, const F* p, F inverse_scale, F min) {
  MinSums s{number(0), number(0), number(0)};
  for (int i = 0; i < n; ++i) {
    const F c = nearest_code<B>(x[i], inverse_scale, min);
    const F pc = weighted<W>(p, i, c);
    s.c = s.c + pc;
    s.cc = s.cc + pc * c;
    s.cx = s.cx + pc * x[i];
  }
  return s;
}

// The error of scale * c - min.
template <class B, int n, bool W>
QCORE_INLINE F min_error_of(const F* x, const F* p, F scale, F min) {
  const F inverse = quotient(number(1), scale);
  F error = number(0);
  for (int i = 0; i < n; ++i) {
    const F r = (x[i] + min) - scale * nearest_code<B>(x[i], inverse, min);
    error = error + weighted<W>(p, i, r) * r;
  }
  return error;
}

template <class B, int n>
QCORE_INLINE void write_min_codes(const F* x, F scale, F min, uint8_t* codes) {
  const F inverse = quotient(number(1), scale);
  for (int i = 0; i < n; ++i) {
    store_bytes(codes + i * kLanes, round_to_ints(nearest_code<B>(x[i], inverse, min)));
  }
}
