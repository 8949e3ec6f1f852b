// A scale and a minimum: for given codes the best pair solves two linear equations.
#pragma once

#include "cpu/encode/lanes.h"

struct PairFit {
  F scale, min;
  MinSums sums;
};

// sums of p and p x over a group
struct Totals {
  F p, px;
};
template <int n, bool W>
QCORE_INLINE Totals totals_of(const F* x, const F* p) {
  Totals t{number(0), number(0)};
  for (int i = 0; i < n; ++i) {
    t.p = t.p + weighted<W>(p, i, number(1));
    t.px = t.px + weighted<W>(p, i, x[i]);
  }
  return t;
}

// The least minimum is 0 if `Positive`.
template <bool Positive>
QCORE_INLINE void solve(const MinSums& s, const Totals& t, F& scale, F& min, F& gain) {
  const F determinant = t.p * s.cc - s.c * s.c;
  scale = quotient(t.p * s.cx - t.px * s.c, determinant);
  min = (scale * s.c - t.px) / t.p;
  if constexpr (Positive) {
    scale = select_less(min, number(0), quotient(s.cx, s.cc), scale);
    min = larger(min, number(0));
  }
  gain = scale * s.cx - min * t.px;
}

// How much of a step to leave out at either end; less than nothing leaves codes unused. What
// matters little may lie far out.
template <class B, bool W>
constexpr std::array<float, 6> shrinks() {
  if constexpr (B::kCodes <= 4) {
    return W ? std::array{-0.2f, 0.1f, 0.4f, 0.8f, 1.3f, 2.2f}
             : std::array{-0.2f, 0.05f, 0.3f, 0.55f, 0.8f, 1.2f};
  } else {
    return W ? std::array{-1.1f, -0.45f, 0.1f, 0.6f, 1.2f, 2.1f}
             : std::array{-1.1f, -0.6f, -0.2f, 0.2f, 0.5f, 0.9f};
  }
}

template <class B, int n, bool W, bool Positive>
PairFit best_pair(const F* x, const F* p, const Totals& totals) {
  F low = x[0], high = x[0];
  for (int i = 1; i < n; ++i) {
    low = smaller(low, x[i]);
    high = larger(high, x[i]);
  }
  if constexpr (Positive) low = smaller(low, number(0));
  const F step = (high - low) * number(1.0f / (B::kCodes - 1));
  F best = number(-0x1p126f);
  // Of a constant group the codes are 0.
  PairFit fit{number(0), larger(number(0) - low, Positive ? number(0) : number(-8)), {}};
  fit.sums = {number(0), number(0), number(0)};
  const auto keep = [&](F scale, F min_) {
    const MinSums s = min_sums_of<B, n, W>(x, p, quotient(number(1), scale), min_);
    F new_scale, new_min, gain;
    solve<Positive>(s, totals, new_scale, new_min, gain);
    const auto put = [&](F& to, F from) { to = select_less(best, gain, from, to); };
    put(fit.scale, new_scale);
    put(fit.min, new_min);
    put(fit.sums.c, s.c);
    put(fit.sums.cc, s.cc);
    put(fit.sums.cx, s.cx);
    best = larger(best, gain);
  };
  static constexpr std::array<float, 6> kShrinks = shrinks<B, W>();
  for (const float a : kShrinks) {
    F least = step * number(a) + low;
    if constexpr (Positive) least = smaller(least, number(0));
    for (const float b : kShrinks) {
      const F most = high - step * number(b);
      keep((most - least) * number(1.0f / (B::kCodes - 1)), number(0) - least);
    }
  }
  for (int turn = 0; turn < 2; ++turn) keep(fit.scale, fit.min);
  return fit;
}

template <class B, bool W>
void fit_scale_and_min(const Lanes& in, Fit<B>& out) {
  constexpr int n = B::kElements;
  const Totals totals = totals_of<n, W>(in.x, in.p);
  PairFit fit = best_pair<B, n, W, false>(in.x, in.p, totals);
  F best = error_of_zero<n, W>(in.x, in.p);
  out.d = out.dmin = number(0);
  for (int turn = 0; turn < 3; ++turn) {
    const F d = nearest_half(in, fit.scale), dmin = nearest_half(in, fit.min);
    const F error = min_error_of<B, n, W>(in.x, in.p, d, dmin);
    out.d = select_less(error, best, d, out.d);
    out.dmin = select_less(error, best, dmin, out.dmin);
    best = smaller(error, best);
    F gain;
    solve<false>(min_sums_of<B, n, W>(in.x, in.p, quotient(number(1), d), dmin), totals, fit.scale,
                 fit.min, gain);
  }
  out.scales[0] = out.mins[0] = number(1);
  write_min_codes<B, n>(in.x, out.d, out.dmin, out.codes);
}
