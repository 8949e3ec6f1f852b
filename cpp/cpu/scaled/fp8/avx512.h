// What op "fp8" needs of AVX512. Included inside a target region and a namespace.

#include "cpu/simd/avx512.h"

// Of 32 registers a tile of sums takes 24, or two of 12 where blocks of K have scales.
inline constexpr int kTileRows = 6, kBlockTileRows = 3;
