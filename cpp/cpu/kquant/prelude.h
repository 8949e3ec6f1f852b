// What loops.h needs from outside, included before a target region is opened: code here is compiled
// for any machine and may be shared.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "cpu/aligned.h"
#include "cpu/kquant/kernels.h"
#include "cpu/layouts/block16.h"
#include "cpu/schedule.h"
#include "cpu/simd/target.h"
#include "formats/blocks/blocks.h"

namespace qcore {

// Tiles of all heights are unrolled for all formats, which takes compilers half a minute; with
// sanitizers it would be many, so they get low tiles.
#if defined(__SANITIZE_ADDRESS__)
constexpr int tile_rows(int) {
  return 2;
}
#else
constexpr int tile_rows(int rows) {
  return rows;
}
#endif

}  // namespace qcore
