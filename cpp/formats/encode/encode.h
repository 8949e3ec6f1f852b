// Encoding for one instruction set: the codes and scales that come nearest to some weights.
#pragma once

#include <cstdint>

namespace qcore {

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
