// An integer scale and minimum for each group and two halves for all: as with scales alone. To a
// scale that is off, the best minimum moves with it.
#pragma once

#include "cpu/encode/scale_and_min.h"

template <class B>
QCORE_INLINE F integer_of_pair(F a) {
  return clamp(nearest_integer(a), number(0), number(B::kMaxScale));
}

// How far from the free scale integers are tried: 4 bits make steps of 7 % and more.
template <class B>
constexpr int kPairReach = B::kMaxScale > 15 ? 5 : 1;

// The halves under which integers come nearest to the free scales and minima: first d, as if minima
// stayed free, then dmin. For the codes that these were found for, the error is a quadratic form.
template <class B>
void choose_halves(const Lanes& in, const PairFit* fits, const Totals* totals, F& d, F& dmin) {
  constexpr int kGroups = Fit<B>::kGroups, kTries = 40;
  F largest_scale = number(0), largest_min = number(0);
  F mean_codes[kGroups], curvatures[kGroups];
  for (int g = 0; g < kGroups; ++g) {
    const MinSums& sums = fits[g].sums;
    largest_scale = larger(largest_scale, fits[g].scale);
    largest_min = larger(largest_min, fits[g].min);
    mean_codes[g] = sums.c / totals[g].p;
    curvatures[g] = sums.cc - sums.c * mean_codes[g];
  }
  d = dmin = number(0);
  F best = number(0x1p126f);
  for (int i = 0; i < kTries; ++i) {
    const float most = (B::kMaxScale + 0.4f) * (1 - 0.008f * static_cast<float>(i));
    const F candidate = nearest_half(in, largest_scale * number(1 / most));
    const F inverse = quotient(number(1), candidate);
    F error = number(0);
    for (int g = 0; g < kGroups; ++g) {
      const F r = candidate * integer_of_pair<B>(fits[g].scale * inverse) - fits[g].scale;
      error = error + curvatures[g] * (r * r);
    }
    d = select_less(error, best, candidate, d);
    best = smaller(error, best);
  }
  const F inverse_d = quotient(number(1), d);
  F moved[kGroups];  // the best minima for the scales that d allows
  for (int g = 0; g < kGroups; ++g) {
    const F r = d * integer_of_pair<B>(fits[g].scale * inverse_d) - fits[g].scale;
    moved[g] = larger(fits[g].min + r * mean_codes[g], number(0));
  }
  best = number(0x1p126f);
  for (int i = 0; i < kTries; ++i) {
    const float most = (B::kMaxScale + 0.4f) * (1 - 0.008f * static_cast<float>(i));
    const F candidate = nearest_half(in, largest_min * number(1 / most));
    const F inverse = quotient(number(1), candidate);
    F error = number(0);
    for (int g = 0; g < kGroups; ++g) {
      const F r = candidate * integer_of_pair<B>(moved[g] * inverse) - moved[g];
      error = error + totals[g].p * (r * r);
    }
    dmin = select_less(error, best, candidate, dmin);
    best = smaller(error, best);
  }
}

// Linear equations for d and dmin: the sum over groups of the error of d s c - dmin m.
struct PairSums {
  F dd, dm, mm, dx, mx;

  QCORE_INLINE void add(F s, F m, const MinSums& sums, const Totals& t) {
    dd = dd + s * s * sums.cc;
    dm = dm + s * m * sums.c;
    mm = mm + m * m * t.p;
    dx = dx + s * sums.cx;
    mx = mx + m * t.px;
  }
  QCORE_INLINE void solve(F& d, F& dmin) const {
    const F determinant = dd * mm - dm * dm;
    const F regular = number(0x1p-20f) * (dd * mm);
    const F d_alone = quotient(dx + dm * dmin, dd);
    const F dmin_alone = quotient(dm * d_alone - mx, mm);
    d = select_less(regular, determinant, quotient(dx * mm - dm * mx, determinant), d_alone);
    dmin = select_less(regular, determinant, quotient(dm * dx - dd * mx, determinant), dmin_alone);
    d = larger(d, number(0));
    dmin = larger(dmin, number(0));
  }
};

template <class B, bool W>
void fit_group_scales_and_mins(const Lanes& in, Fit<B>& out) {
  constexpr int n = B::kGroup, kGroups = Fit<B>::kGroups;
  PairFit fits[kGroups];
  Totals totals[kGroups];
  for (int g = 0; g < kGroups; ++g) {
    totals[g] = totals_of<n, W>(in.x + g * n, W ? in.p + g * n : nullptr);
    fits[g] = best_pair<B, n, W, true>(in.x + g * n, W ? in.p + g * n : nullptr, totals[g]);
  }
  F d, dmin;
  choose_halves<B>(in, fits, totals, d, dmin);

  F best = error_of_zero<B::kElements, W>(in.x, in.p);
  out.d = out.dmin = number(0);
  for (int g = 0; g < kGroups; ++g) out.scales[g] = out.mins[g] = number(0);
  for (int turn = 0; turn < 2; ++turn) {
    const F inverse_d = quotient(number(1), d), inverse_dmin = quotient(number(1), dmin);
    F integers[kGroups], integer_mins[kGroups], total = number(0);
    PairSums equations{number(0), number(0), number(0), number(0), number(0)};
    for (int g = 0; g < kGroups; ++g) {
      const F *x = in.x + g * n, *p = W ? in.p + g * n : nullptr;
      PairFit& fit = fits[g];
      const Totals& t = totals[g];
      const F center = integer_of_pair<B>(fit.scale * inverse_d);
      const F mean_code = fit.sums.c / t.p;
      F least = number(0x1p126f);
      integers[g] = integer_mins[g] = number(0);
      const auto keep = [&](F scale, F min_) {
        const F error = min_error_of<B, n, W>(x, p, d * scale, dmin * min_);
        integers[g] = select_less(error, least, scale, integers[g]);
        integer_mins[g] = select_less(error, least, min_, integer_mins[g]);
        least = smaller(error, least);
      };
      const int reach = turn == 0 ? kPairReach<B> : 1;
      for (int step = -reach; step <= reach; ++step) {
        const F scale = integer_of_pair<B>(center + number(static_cast<float>(step)));
        const F moved = fit.min + (d * scale - fit.scale) * mean_code;
        keep(scale, integer_of_pair<B>(moved * inverse_dmin));
      }
      const auto sums = [&] {
        const F scale = d * integers[g];
        return min_sums_of<B, n, W>(x, p, quotient(number(1), scale), dmin * integer_mins[g]);
      };
      fit.sums = sums();
      // The best minimum for these codes.
      const F scale = integers[g];
      keep(scale, integer_of_pair<B>((d * scale * fit.sums.c - t.px) / t.p * inverse_dmin));
      fit.sums = sums();
      total = total + least;
      equations.add(integers[g], integer_mins[g], fit.sums, t);
      F gain;
      solve<true>(fit.sums, t, fit.scale, fit.min, gain);
    }
    out.d = select_less(total, best, d, out.d);
    out.dmin = select_less(total, best, dmin, out.dmin);
    for (int g = 0; g < kGroups; ++g) {
      out.scales[g] = select_less(total, best, integers[g], out.scales[g]);
      out.mins[g] = select_less(total, best, integer_mins[g], out.mins[g]);
    }
    best = smaller(total, best);
    equations.solve(d, dmin);
    d = nearest_half(in, d);
    dmin = nearest_half(in, dmin);
  }
  for (int g = 0; g < kGroups; ++g) {
    write_min_codes<B, n>(in.x + g * n, out.d * out.scales[g], out.dmin * out.mins[g],
                          out.codes + g * n * kLanes);
  }
}
