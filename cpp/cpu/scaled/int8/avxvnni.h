// What op "int8" needs of AVX-VNNI. Included inside a target region and a namespace.

#include "cpu/simd/avxvnni.h"

inline constexpr bool kHasPanels = true;
// Of 16 registers a tile of sums takes 12 (3 x 4, or 2 panels x 6).
inline constexpr int kTileRows = 3, kWideTileRows = 0;
inline constexpr int kMostPanels = 2;
// As many rows of x are multiplied as rows; more are faster in panels.
inline constexpr int64_t kFewRows = 6;

#include "cpu/scaled/int8/dot_bytes.h"
