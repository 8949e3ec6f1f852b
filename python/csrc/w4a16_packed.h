// What the w4a16 ops share: the packed weight as four tensors.
//
// `shape` has no elements: its sizes [0, layout, n, k, group_size, bits, codes] are the descriptor;
// codes: 0 integers, 1 integers with zero points, 2 float8_e4m3fn, 3 float8_e5m2. So fake kernels
// see it, it follows `.to(device)` and a state dict, and reading it never waits for a device.
//
// Of a weight [E, N, K] the other three have two dimensions, E in front; n and k are of one expert.
#pragma once

#include <optional>
#include <string>

#include "tensors.h"

namespace qcore::binding {

// A packed weight whose buffers are known to be as large as its descriptor says.
struct PackedWeight {
  PackedScaled view;
  Experts experts;
  const ScaledLayout* layout;
  Tensor qweight, scales, zeros;  // what `view` points into
};

PackedWeight check_packed(const char* op, const Tensor& qweight, const Tensor& scales,
                          const Tensor& zeros, const Tensor& shape);

std::string all_layouts();  // "1 (panel16), 2 (fragment16)"

// The permutation [k], or of experts [E, k], as int32, on the device of the argument `with_name`.
// On the CPU what int32 cannot hold is refused here, the rest by the core. On a GPU nothing is:
// that would mean to wait.
Tensor check_perm(const char* op, const Tensor& perm, const Experts& experts, int64_t k,
                  const char* with_name, const Tensor& with);

}  // namespace qcore::binding
