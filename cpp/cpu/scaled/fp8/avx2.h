// What op "fp8" needs of AVX2. Included inside a target region and a namespace.

#include "cpu/simd/avx2.h"

// Of 16 registers a tile of sums takes 8, or two of 4 where blocks of K have scales.
inline constexpr int kTileRows = 2, kBlockTileRows = 1;
