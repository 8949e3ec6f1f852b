// What op "int8" needs of AVX2. Included inside a target region and a namespace.

#include "cpu/simd/avx2.h"

inline constexpr bool kHasPanels = false;
// Of 16 registers a tile of sums takes 8 (2 x 4).
inline constexpr int kTileRows = 2, kWideTileRows = 0;
inline constexpr int kMostPanels = 2;
// As many rows of x are copied at once.
inline constexpr int64_t kFewRows = 48;

#include "cpu/scaled/int8/dot_pairs.h"
