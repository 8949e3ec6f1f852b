// A scale that is a power of two: the few that can be the best are tried.
#pragma once

#include "cpu/encode/lanes.h"

template <class B, bool W>
void fit_power_of_two(const Lanes& in, Fit<B>& out) {
  constexpr int n = B::kElements;
  F d = number(0), best = error_of_zero<n, W>(in.x, in.p);
  // The largest magnitude is in [1, 2) (up to 4 next to the end of the range of float) and the
  // largest value 12. Beyond 2^124 a value would not be finite.
  for (const float power : {0x1p-3f, 0x1p-2f, 0x1p-4f, 0x1p-1f}) {
    const F scale = clamp(number(power) * in.unit, number(0x1p-128f), number(0x1p124f));
    const F candidate = scale * in.inverse_unit;
    const F error = error_of<B, n, W>(in.x, in.p, candidate);
    d = select_less(error, best, candidate, d);
    best = smaller(error, best);
  }
  out.d = d;
  out.dmin = number(0);
  out.scales[0] = number(1);
  out.mins[0] = number(0);
  write_codes<B, n>(in.x, d, out.codes);
}
