// An integer scale for each group and a half for all: first the best scale of each group as if it
// were free; then the half under which integers come nearest to those; then by turns the integers,
// with the codes as they will be stored, and the half.
#pragma once

#include "cpu/encode/one_scale.h"

template <class B>
QCORE_INLINE F integer_scale(F a) {
  return clamp(nearest_integer(a), number(-B::kMaxScale - 1), number(B::kMaxScale));
}

// How far from the free scale integers are tried: 8 bits make steps of less than 1 %.
template <class B>
constexpr int kReach = B::kMaxScale > 100 ? 4 : 1;

// The half under which integers come nearest to the free scales.
template <class B>
F choose_half(const Lanes& in, const F* scales, const F* curvatures) {
  constexpr int kGroups = Fit<B>::kGroups, kTries = 64;
  F low = number(0), high = number(0);
  for (int g = 0; g < kGroups; ++g) {
    low = smaller(low, scales[g]);
    high = larger(high, scales[g]);
  }
  const F largest = select_less(high, number(0) - low, low, high);
  F d = number(0), best = number(0x1p126f);
  for (int i = 0; i < kTries; ++i) {
    const float most = (B::kMaxScale + 1.2f) * (1 - 0.006f * static_cast<float>(i / 2));
    const F candidate = nearest_half(in, largest * number(i % 2 ? -1 / most : 1 / most));
    const F inverse = quotient(number(1), candidate);
    F error = number(0);
    for (int g = 0; g < kGroups; ++g) {
      const F r = candidate * integer_scale<B>(scales[g] * inverse) - scales[g];
      error = error + curvatures[g] * (r * r);
    }
    d = select_less(error, best, candidate, d);
    best = smaller(error, best);
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
  out.d = out.dmin = number(0);
  for (int g = 0; g < kGroups; ++g) out.scales[g] = out.mins[g] = number(0);
  for (int turn = 0; turn < 2; ++turn) {
    const F inverse = quotient(number(1), d);
    F integers[kGroups], total = number(0), dx = number(0), dd = number(0);
    for (int g = 0; g < kGroups; ++g) {
      const F *x = in.x + g * n, *p = W ? in.p + g * n : nullptr;
      const F center = integer_scale<B>(scales[g] * inverse);
      F least = number(0x1p126f);
      integers[g] = number(0);
      const int reach = turn == 0 ? kReach<B> : 1;
      for (int step = -reach; step <= reach; ++step) {
        const F integer = integer_scale<B>(center + number(static_cast<float>(step)));
        const F error = error_of<B, n, W>(x, p, d * integer);
        integers[g] = select_less(error, least, integer, integers[g]);
        least = smaller(error, least);
      }
      const Sums s = sums_of<B, n, W>(x, p, quotient(number(1), d * integers[g]));
      total = total + least;
      dx = dx + integers[g] * s.vx;
      dd = dd + integers[g] * integers[g] * s.vv;
      scales[g] = select_less(number(0x1p-20f), s.vv, quotient(s.vx, s.vv), scales[g]);
    }
    out.d = select_less(total, best, d, out.d);
    for (int g = 0; g < kGroups; ++g) {
      out.scales[g] = select_less(total, best, integers[g], out.scales[g]);
    }
    best = smaller(total, best);
    d = nearest_half(in, quotient(dx, dd));
  }
  for (int g = 0; g < kGroups; ++g) {
    write_codes<B, n>(in.x + g * n, out.d * out.scales[g], out.codes + g * n * kLanes);
  }
}
