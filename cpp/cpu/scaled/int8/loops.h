// The gemm of op "int8", written once for every instruction set. A file that instantiates it opens
// a target region and a namespace, includes a vector vocabulary (isa_*.h) and then this file.
//
// Both operands are contiguous along K, so no weight is packed, and the few rows of x are copied
// once per call. There are two ways to multiply, each exact:
//
// - Few rows: vectors run along K; a tile holds sums for a few rows of x times 4 or 8 of the
//   weight, lane by lane, which are added up at its end.
// - Many rows: x is copied into panels, four columns of K of as many rows as there are lanes side
//   by side, and four bytes of one row of the weight are broadcast to all lanes: no sums across
//   lanes, and the weight is read as it lies. 6 rows of it at a time: rows are often a multiple of
//   4096 bytes apart, so that their columns compete for the 8 ways of one set of the L1 cache.
//
// A strip of 48 rows of the weight (whole tiles of 4, 6 and 8, whole vectors) is multiplied with
// all rows of x while it is in the cache. The sums become y in finish.h.

// In the order of their needs.
// clang-format off
#include "cpu/scaled/int8/finish.h"
#include "cpu/scaled/int8/few_rows.h"
#include "cpu/scaled/int8/panels.h"
#include "cpu/scaled/int8/gemm.h"
// clang-format on
