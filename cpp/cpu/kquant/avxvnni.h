// What op "kquant" needs of AVX-VNNI. Included inside a target region and a namespace.

#include "cpu/simd/avxvnni.h"

// A tile of 4 rows: three sums for each, of 16 registers.
inline constexpr int kTileRows = tile_rows(4);

#include "cpu/kquant/dot_bytes.h"
