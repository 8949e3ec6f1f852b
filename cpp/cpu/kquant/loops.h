// The gemm of op "kquant", written once for every instruction set and block format. A file that
// instantiates it opens a target region and a namespace, includes <isa>.h and then this file.
//
// For one row of x and one of the weight, over the blocks of K in order:
//   dot = sum over groups of scale * (sum over elements of value * q)   exact, in int32
//   min = sum over groups of minimum * (sum over elements of q)         exact, in int32
//   acc = fma(dot * scale_x, d, acc);  acc = fma(min * scale_x, -dmin, acc)
// and y = round(acc + bias). Exact sums may be taken in any order, so every tile takes its own; a
// row of y depends neither on its batch nor on the pool nor on the instruction set.
//
// A strip is as many rows of the weight as there are lanes. Codes are decoded in registers, and
// again for each tile of rows: for tiles of 8 rows that costs less than to decode them once into
// the cache and to read them back, by 5 % at M = 128 and by 30 % at M = 16 (measured on Zen 4).

// In the order of their needs.
// clang-format off
#include "cpu/kquant/bits.h"
#include "cpu/kquant/decode.h"
#include "cpu/kquant/activations.h"
#include "cpu/kquant/call.h"
#include "cpu/kquant/tile.h"
#include "cpu/kquant/floats.h"
#include "cpu/kquant/gemm.h"
// clang-format on
