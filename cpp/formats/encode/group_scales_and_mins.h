// An integer scale and minimum for each group and two halves for all: as with scales alone. To a
// scale that is off, the best minimum moves with it.
#pragma once

#include "formats/encode/scale_and_min.h"

template <class B>
QCORE_INLINE F integer_of_pair(F a) {
  return clamp(nearest_integer(a), splat(0), splat(B::kMaxScale));
}

template <class B, bool W>
void fit_group_scales_and_mins(const Lanes& in, Fit<B>& out) {
  constexpr int n = B::kGroup, kGroups = Fit<B>::kGroups;
  PairFit fits[kGroups];
  Totals totals[kGroups];
  F largest_scale = splat(0), largest_min = splat(0);
  for (int g = 0; g < kGroups; ++g) {
    totals[g] = totals_of<n, W>(in.x + g * n, in.p + g * n);
    fits[g] = best_pair<B, n, W, true>(in.x + g * n, in.p + g * n, totals[g]);
    largest_scale = max(largest_scale, fits[g].scale);
    largest_min = max(largest_min, fits[g].min);
  }

  F d = splat(0), dmin = splat(0), best = splat(0x1p126f);
  for (int i = 0; i < 8; ++i) {
    const float most = (B::kMaxScale + 0.4f) * (1 - 0.03f * static_cast<float>(i));
    const F some_d = nearest_half(in, largest_scale * splat(1 / most));
    const F inverse_d = quotient(splat(1), some_d);
    for (int j = 0; j < 8; ++j) {
      const float most_min = (B::kMaxScale + 0.4f) * (1 - 0.03f * static_cast<float>(j));
      const F some_dmin = nearest_half(in, largest_min * splat(1 / most_min));
      const F inverse_dmin = quotient(splat(1), some_dmin);
      F error = splat(0);
      for (int g = 0; g < kGroups; ++g) {
        const PairFit& fit = fits[g];
        const F r = some_d * integer_of_pair<B>(fit.scale * inverse_d) - fit.scale;
        const F moved = fit.min + r * fit.sums.c / totals[g].p;
        const F m = some_dmin * integer_of_pair<B>(moved * inverse_dmin) - fit.min;
        error =
            error + ((fit.sums.cc * r - splat(2) * (fit.sums.c * m)) * r + totals[g].p * (m * m));
      }
      d = if_less(error, best, some_d, d);
      dmin = if_less(error, best, some_dmin, dmin);
      best = min(error, best);
    }
  }

  best = splat(0x1p126f);
  out.d = out.dmin = splat(0);
  for (int g = 0; g < kGroups; ++g) out.scales[g] = out.mins[g] = splat(0);
  for (int turn = 0; turn < 3; ++turn) {
    const F inverse_d = quotient(splat(1), d), inverse_dmin = quotient(splat(1), dmin);
    F integers[kGroups], integer_mins[kGroups], total = splat(0);
    // The equations for d and dmin.
    F dd = splat(0), dm = splat(0), mm = splat(0), dx = splat(0), mx = splat(0);
    for (int g = 0; g < kGroups; ++g) {
      PairFit& fit = fits[g];
      const Totals& t = totals[g];
      const F center = integer_of_pair<B>(fit.scale * inverse_d);
      MinErrorSums least{splat(0x1p126f), {splat(0), splat(0), splat(0)}};
      integers[g] = integer_mins[g] = splat(0);
      const auto keep = [&](F scale, F min_) {
        const MinErrorSums e =
            min_error_of<B, n, W>(in.x + g * n, in.p + g * n, d * scale, dmin * min_);
        const auto put = [&](F& to, F from) { to = if_less(e.error, least.error, from, to); };
        put(integers[g], scale);
        put(integer_mins[g], min_);
        put(least.sums.c, e.sums.c);
        put(least.sums.cc, e.sums.cc);
        put(least.sums.cx, e.sums.cx);
        least.error = min(e.error, least.error);
        // The best minimum for these codes.
        return integer_of_pair<B>((d * scale * e.sums.c - t.px) / t.p * inverse_dmin);
      };
      for (const float step : {0.0f, -1.0f, 1.0f}) {
        const F scale = integer_of_pair<B>(center + splat(step));
        const F moved = fit.min + (d * scale - fit.scale) * fit.sums.c / t.p;
        keep(scale, keep(scale, integer_of_pair<B>(moved * inverse_dmin)));
      }
      total = total + least.error;
      const F s = integers[g], m = integer_mins[g];
      dd = dd + s * s * least.sums.cc;
      dm = dm + s * m * least.sums.c;
      mm = mm + m * m * t.p;
      dx = dx + s * least.sums.cx;
      mx = mx + m * t.px;
      fit.sums = least.sums;
      F gain;
      solve<true>(least.sums, t, fit.scale, fit.min, gain);
    }
    out.d = if_less(total, best, d, out.d);
    out.dmin = if_less(total, best, dmin, out.dmin);
    for (int g = 0; g < kGroups; ++g) {
      out.scales[g] = if_less(total, best, integers[g], out.scales[g]);
      out.mins[g] = if_less(total, best, integer_mins[g], out.mins[g]);
    }
    best = min(total, best);
    // x = d s c - dmin m:  dd d - dm dmin = dx,  dm d - mm dmin = mx
    const F determinant = dd * mm - dm * dm;
    const F flat = splat(0x1p-20f) * (dd * mm);
    const F both_d = quotient(dx * mm - dm * mx, determinant);
    const F both_dmin = quotient(dm * dx - dd * mx, determinant);
    d = nearest_half(in, if_less(flat, determinant, both_d, quotient(dx + dm * dmin, dd)));
    dmin = nearest_half(in, if_less(flat, determinant, both_dmin, dmin));
    d = max(d, splat(0));
    dmin = max(dmin, splat(0));
  }
  for (int g = 0; g < kGroups; ++g) {
    write_min_codes<B, n>(in.x + g * n, out.d * out.scales[g], out.dmin * out.mins[g],
                          out.codes + g * n * kLanes);
  }
}
