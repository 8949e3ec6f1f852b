// Encoding of weights as blocks: the codes and scales that come nearest to them.
#pragma once

#include <cstdint>

#include "qcore/blocks.h"
#include "qcore/isa.h"

namespace qcore {
namespace encode {

// Encodes `count` blocks of w [elements * count], finite numbers, on the calling thread: the sum of
// importance * error^2 is as small as the search of an encoder finds, all of which find the same;
// it runs the first whose instruction set is in `cpu`. The importance of each element, finite and
// not negative, or null.
void encode(const BlockFormat& format, CpuFeatures cpu, const float* w, const float* importance,
            int64_t count, void* blocks);

}  // namespace encode

// What a block is to hold, by the names of its codec's view (blocks/bits.h).
struct BlockFit {
  uint8_t codes[256];
  float d, dmin;
  int16_t scales[16], mins[16];  // of the groups
};

inline constexpr int kMaxFits = 16;  // blocks of one call

// Fits for `count` <= kMaxFits blocks of w and the importance of each element, which may be null.
// Finite numbers only; importance is not negative. What one block gets does not depend on others.
using FitBlocks = void (*)(const float* w, const float* importance, int count, BlockFit* fits);

// In the order of blocks.def.
#if defined(QCORE_X86)
namespace avx512::encode {
extern const FitBlocks kFitBlocks[];
}
namespace avx2::encode {
extern const FitBlocks kFitBlocks[];
}
#endif
namespace reference::encode {
extern const FitBlocks kFitBlocks[];
}

}  // namespace qcore
