// What op "kquant" needs of AVX512. Included inside a target region and a namespace.

#include "cpu/simd/avx512.h"

// A tile of 8 rows: three sums for each, of 32 registers.
inline constexpr int kTileRows = tile_rows(8);

#include "cpu/kquant/dot_bytes.h"
