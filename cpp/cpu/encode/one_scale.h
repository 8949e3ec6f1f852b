// One scale: for given codes the best scale is a quotient of sums, and for a given scale the best
// codes are the nearest. From several starts, the best of which goes on by turns.
#pragma once

#include "cpu/encode/lanes.h"

// What the element of largest magnitude is made, as a part of the least and of the largest value.
// If it matters little, it may lie far out.
template <class B, bool W>
constexpr auto parts() {
  if constexpr (B::kCodes <= 16 && W) {
    return std::array{1.8f, 1.5f, 1.3f, 1.18f, 1.1f, 1.03f, 0.97f, 0.91f, 0.85f};
  } else if constexpr (B::kCodes <= 16) {
    return std::array{1.12f, 1.05f, 0.99f, 0.93f, 0.87f, 0.81f};
  } else if constexpr (W) {
    return std::array{1.2f, 1.1f, 1.05f, 1.02f, 0.99f, 0.96f, 0.93f, 0.9f, 0.87f, 0.84f, 0.8f};
  } else {
    return std::array{1.03f, 1.01f, 0.99f, 0.97f, 0.95f, 0.93f, 0.91f, 0.89f, 0.86f};
  }
}

template <class B, bool W>
struct Starts {
  static constexpr auto kStarts = [] {
    constexpr auto kParts = parts<B, W>();
    std::array<float, 2 * kParts.size()> starts{};
    for (size_t i = 0; i < kParts.size(); ++i) {
      starts[2 * i] = low_value<B>() * kParts[i];
      starts[2 * i + 1] = high_value<B>() * kParts[i];
    }
    return starts;
  }();
};
// Three values: what is halfway to 1 may be a small part of the largest element.
template <class B, bool W>
  requires(high_value<B>() == 1)
struct Starts<B, W> {
  static constexpr std::array<float, 14> kStarts = {1,    1.2f, 1.4f, 1.6f, 1.8f, 2,    2.3f,
                                                    2.6f, 3,    3.5f, 4.2f, 5.5f, 7.5f, 12};
};

struct ScaleFit {
  F scale;
  F curvature;  // of half the error, as a function of the scale: the sum of p v^2
};

template <class B, int n, bool W>
ScaleFit best_scale(const F* x, const F* p) {
  F low = x[0], high = x[0];
  for (int i = 1; i < n; ++i) {
    low = smaller(low, x[i]);
    high = larger(high, x[i]);
  }
  const F largest = select_less(high, number(0) - low, low, high);
  const F inverse = quotient(number(1), largest);
  F best = number(-1);
  ScaleFit fit{number(0), number(0)};
  const auto keep = [&](const Sums& s) {
    const F scale = quotient(s.vx, s.vv), gain = scale * s.vx;
    fit.scale = select_less(best, gain, scale, fit.scale);
    fit.curvature = select_less(best, gain, s.vv, fit.curvature);
    best = larger(best, gain);
  };
  for (const float start : Starts<B, W>::kStarts) {
    keep(sums_of<B, n, W>(x, p, number(start) * inverse));
  }
  for (int turn = 0; turn < 3; ++turn) {
    keep(sums_of<B, n, W>(x, p, quotient(number(1), fit.scale)));
  }
  return fit;
}

template <class B, bool W>
void fit_one_scale(const Lanes& in, Fit<B>& out) {
  constexpr int n = B::kElements;
  F d = number(0), best = error_of_zero<n, W>(in.x, in.p);
  const auto keep = [&](F candidate) {
    const F error = error_of<B, n, W>(in.x, in.p, candidate);
    d = select_less(error, best, candidate, d);
    best = smaller(error, best);
  };
  if constexpr (high_value<B>() >= 127 && has_even_values<B>()) {
    // So many codes that no turn changes much: which rounding errors come together is luck, and
    // each try another chance.
    F largest = magnitude(in.x[0]);
    for (int i = 1; i < n; ++i) largest = larger(largest, magnitude(in.x[i]));
    for (int i = 0; i < (W ? 20 : 12); ++i) {
      keep(nearest_half(
          in, largest * number(1 / (127.4f - (W ? 0.7f : 0.4f) * static_cast<float>(i)))));
    }
    const Sums s = sums_of<B, n, W>(in.x, in.p, quotient(number(1), d));
    keep(nearest_half(in, quotient(s.vx, s.vv)));
  } else {
    const F scale = best_scale<B, n, W>(in.x, in.p).scale;
    for (const float factor : {1.0f, 1 - 0x1p-11f, 1 + 0x1p-11f}) {
      keep(nearest_half(in, scale * number(factor)));
    }
  }
  out.d = d;
  out.dmin = number(0);
  out.scales[0] = number(1);
  out.mins[0] = number(0);
  write_codes<B, n>(in.x, d, out.codes);
}
