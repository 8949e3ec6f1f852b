// An integer scale for each group and a half for all: first the best scale of each group as if it
// were free; then the half under which integers come nearest to those; then by turns the integers,
// with the codes as they will be stored, and the half.
#pragma once

#include "cpu/encode/one_scale.h"

template <class B>
QCORE_INLINE F integer_scale(F a) {
  return clamp(nearest_integer(a), splat(-B::kMaxScale - 1), splat(B::kMaxScale));
}

// How far from the free scale integers are tried: 8 bits make steps of less than 1 %.
template <class B>
constexpr int kReach = B::kMaxScale > 100 ? 4 : 1;

// The half under which integers come nearest to the free scales.
template <class B>
F choose_half(const Lanes& in, const F* scales, const F* curvatures) {
  constexpr int kGroups = Fit<B>::kGroups, kTries = 64;
  F low = splat(0), high = splat(0);
  for (int g = 0; g < kGroups; ++g) {
    low = min(low, scales[g]);
    high = max(high, scales[g]);
  }
  const F largest = if_less(high, splat(0) - low, low, high);
  F d = splat(0), best = splat(0x1p126f);
  for (int i = 0; i < kTries; ++i) {
    const float most = (B::kMaxScale + 1.2f) * (1 - 0.006f * static_cast<float>(i / 2));
    const F candidate = nearest_half(in, largest * splat(i % 2 ? -1 / most : 1 / most));
    const F inverse = quotient(splat(1), candidate);
    F error = splat(0);
    for (int g = 0; g < kGroups; ++g) {
      const F r = candidate * integer_scale<B>(scales[g] * inverse) - scales[g];
      error = error + curvatures[g] * (r * r);
    }
    d = if_less(error, best, candidate, d);
    best = min(error, best);
  }
  return d;
}

template <class B, bool W>
void fit_group_scales(const Lanes& in, Fit<B>& out) {
  constexpr int n = B::kGroup, kGroups = Fit<B>::kGroups;
  F scales[kGroups], curvatures[kGroups];
  for (int g = 0; g < kGroups; ++g) {
    const ScaleFit fit = best_scale<B, n, W>(in.x + g * n, W ? in.p + g * n : nullptr);
    scales[g] = fit.scale;
    curvatures[g] = fit.curvature;
  }
  F d = choose_half<B>(in, scales, curvatures);

  F best = error_of_zero<B::kElements, W>(in.x, in.p);
  out.d = out.dmin = splat(0);
  for (int g = 0; g < kGroups; ++g) out.scales[g] = out.mins[g] = splat(0);
  for (int turn = 0; turn < 2; ++turn) {
    const F inverse = quotient(splat(1), d);
    F integers[kGroups], total = splat(0), dx = splat(0), dd = splat(0);
    for (int g = 0; g < kGroups; ++g) {
      const F *x = in.x + g * n, *p = W ? in.p + g * n : nullptr;
      const F center = integer_scale<B>(scales[g] * inverse);
      F least = splat(0x1p126f);
      integers[g] = splat(0);
      const int reach = turn == 0 ? kReach<B> : 1;
      for (int step = -reach; step <= reach; ++step) {
        const F integer = integer_scale<B>(center + splat(static_cast<float>(step)));
        const F error = error_of<B, n, W>(x, p, d * integer);
        integers[g] = if_less(error, least, integer, integers[g]);
        least = min(error, least);
      }
      const Sums s = sums_of<B, n, W>(x, p, quotient(splat(1), d * integers[g]));
      total = total + least;
      dx = dx + integers[g] * s.vx;
      dd = dd + integers[g] * integers[g] * s.vv;
      scales[g] = if_less(splat(0x1p-20f), s.vv, quotient(s.vx, s.vv), scales[g]);
    }
    out.d = if_less(total, best, d, out.d);
    for (int g = 0; g < kGroups; ++g) {
      out.scales[g] = if_less(total, best, integers[g], out.scales[g]);
    }
    best = min(total, best);
    d = nearest_half(in, quotient(dx, dd));
  }
  for (int g = 0; g < kGroups; ++g) {
    write_codes<B, n>(in.x + g * n, out.d * out.scales[g], out.codes + g * n * kLanes);
  }
}
