// An integer scale for each group and a half for all: first the best scale of each group as if it
// were free; then the half under which integers come nearest to those; then by turns the integers,
// with the codes as they will be stored, and the half.
#pragma once

#include "formats/encode/one_scale.h"

template <class B>
QCORE_INLINE F integer_scale(F a) {
  return clamp(nearest_integer(a), splat(-B::kMaxScale - 1), splat(B::kMaxScale));
}

template <class B, bool W>
void fit_group_scales(const Lanes& in, Fit<B>& out) {
  constexpr int n = B::kGroup, kGroups = Fit<B>::kGroups;
  F scales[kGroups], curvatures[kGroups];
  F low = splat(0), high = splat(0);
  for (int g = 0; g < kGroups; ++g) {
    const ScaleFit fit = best_scale<B, n, W>(in.x + g * n, in.p + g * n);
    scales[g] = fit.scale;
    curvatures[g] = fit.curvature;
    low = min(low, fit.scale);
    high = max(high, fit.scale);
  }
  const F largest = if_less(high, splat(0) - low, low, high);
  F d = splat(0), best = splat(0x1p126f);
  for (int i = 0; i < 24; ++i) {
    const float most = (B::kMaxScale + 1.2f) * (1 - 0.012f * static_cast<float>(i / 2));
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

  best = splat(0x1p126f);
  out.d = out.dmin = splat(0);
  for (int g = 0; g < kGroups; ++g) out.scales[g] = out.mins[g] = splat(0);
  for (int turn = 0; turn < 3; ++turn) {
    const F inverse = quotient(splat(1), d);
    F integers[kGroups], total = splat(0), dx = splat(0), dd = splat(0);
    for (int g = 0; g < kGroups; ++g) {
      const F center = integer_scale<B>(scales[g] * inverse);
      ErrorSums least{splat(0x1p126f), splat(0), splat(0)};
      integers[g] = center;
      for (const float step : {0.0f, -1.0f, 1.0f}) {
        const F integer = integer_scale<B>(center + splat(step));
        const ErrorSums e = error_of<B, n, W>(in.x + g * n, in.p + g * n, d * integer);
        integers[g] = if_less(e.error, least.error, integer, integers[g]);
        least.vx = if_less(e.error, least.error, e.vx, least.vx);
        least.vv = if_less(e.error, least.error, e.vv, least.vv);
        least.error = min(e.error, least.error);
      }
      total = total + least.error;
      dx = dx + integers[g] * least.vx;
      dd = dd + (integers[g] * integers[g]) * least.vv;
      scales[g] =
          if_less(least.vv, splat(0.5f * 0x1p-20f), scales[g], quotient(least.vx, least.vv));
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
