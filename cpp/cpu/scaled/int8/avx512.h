// What op "int8" needs of AVX512. Included inside a target region and a namespace.

#include "cpu/simd/avx512.h"

inline constexpr bool kHasPanels = true;
// Of 32 registers a tile of sums takes 24: 6 x 4, 3 x 8, or 4 panels x 6.
inline constexpr int kTileRows = 6, kWideTileRows = 3;
inline constexpr int kMostPanels = 4;
// As many rows of x are multiplied as rows; more are faster in panels.
inline constexpr int64_t kFewRows = 24;

#include "cpu/scaled/int8/dot_bytes.h"
