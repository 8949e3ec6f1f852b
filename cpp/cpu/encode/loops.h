// The encoders, written once for every instruction set: a file that instantiates them opens a
// target region and a namespace, includes a vocabulary (simd/<isa>.h) and then this file.
//
// A vector holds one number of each of kLanes blocks, so all arithmetic is vertical: what a block
// gets depends neither on its neighbours nor on the number of lanes. Only + - * / min max and
// rounding to nearest, in one order and without contraction: the same bits from every instruction
// set. Each block of weights, and of importances, is first multiplied by the power of two that
// brings its largest magnitude into [1, 2).
//
// The objective is the sum of p (x - q)^2 with the importances p (1 if there are none) and the
// values q that decoding gives, stored scales and all.

#include "cpu/encode/group_scales.h"
#include "cpu/encode/group_scales_and_mins.h"
#include "cpu/encode/one_scale.h"
#include "cpu/encode/power_of_two.h"
#include "cpu/encode/scale_and_min.h"

template <class B, bool W>
void fit_lanes(const Lanes& in, Fit<B>& out) {
  constexpr bool kGroups = B::kGroup < B::kElements;
  if constexpr (std::is_same_v<B, blocks::MXFP4>) {
    fit_power_of_two<B, W>(in, out);
  } else if constexpr (kGroups && B::kHasMin) {
    fit_group_scales_and_mins<B, W>(in, out);
  } else if constexpr (kGroups) {
    fit_group_scales<B, W>(in, out);
  } else if constexpr (B::kHasMin) {
    fit_scale_and_min<B, W>(in, out);
  } else {
    fit_one_scale<B, W>(in, out);
  }
}

template <class B>
void fit_blocks(const float* w, const float* importance, int count, BlockFit* fits) {
  const ExactSubnormals exact;
  for (int first = 0; first < count; first += kLanes) {
    const int lanes = std::min(kLanes, count - first);
    const int64_t at = int64_t{first} * B::kElements;
    F x[B::kElements], p[B::kElements];
    Lanes in{x, importance ? p : nullptr, {}, {}};
    load_weights<B::kElements>(w + at, lanes, x, in);
    Fit<B> out;
    if (importance) {
      load_importance<B::kElements>(importance + at, lanes, p);
      fit_lanes<B, true>(in, out);
    } else {
      fit_lanes<B, false>(in, out);
    }
    write_fits<B>(in, out, lanes, fits + first);
  }
}

const FitBlocks kFitBlocks[] = {
#define QCORE_BLOCK(name, ggml_type, elements, bytes, summary) fit_blocks<blocks::name>,
#include "formats/blocks/blocks.def"
#undef QCORE_BLOCK
};
