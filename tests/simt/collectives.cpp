// What a warp executes together, once all of its lanes have arrived.
#include <array>
#include <cstring>

#include "numerics/float16.h"
#include "ptx/fragments.h"
#include "simt/thread.h"

namespace qcore::simt {
namespace {

using fragments::Element;

void sync_warp(Warp& warp) {
  warp.block->shared.sync_warp(warp.index);
}

void shuffle_xor(Warp& warp) {
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    const Operands& mine = warp.operands[lane];
    const uint32_t other = lane ^ mine.number;
    if (other >= kWarpSize) fault("shuffle_xor: no lane " + std::to_string(other), warp.where);
    std::memcpy(mine.result, warp.operands[other].first, sizeof(float));
  }
}

// All lanes read all rows, so that a row which a lane of this warp wrote is a race even for this
// lane unless the warp synchronised.
void ldmatrix_x4(Warp& warp) {
  uint16_t rows[kWarpSize][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    warp.block->shared.read(warp.operands[lane].number, 16, whole_warp(warp.index), rows[lane],
                            {"ldmatrix_x4", warp.where, lane});
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    uint32_t* const result = static_cast<uint32_t*>(warp.operands[lane].result);
    const Element low = fragments::ldmatrix_element(lane, 0);
    const Element high = fragments::ldmatrix_element(lane, 1);
    for (int j = 0; j < 4; ++j) {
      result[j] = rows[8 * j + low.row][low.column] |
                  static_cast<uint32_t>(rows[8 * j + high.row][high.column]) << 16;
    }
  }
}

// Where the elements of all lanes lie in the row-major matrix of kColumns columns.
template <int kElements, int kColumns>
constexpr auto places(Element (*element)(int, int)) {
  std::array<std::array<uint16_t, kElements>, kWarpSize> table{};
  for (int lane = 0; lane < kWarpSize; ++lane) {
    for (int i = 0; i < kElements; ++i) {
      const Element e = element(lane, i);
      table[static_cast<size_t>(lane)][static_cast<size_t>(i)] =
          static_cast<uint16_t>(e.row * kColumns + e.column);
    }
  }
  return table;
}
constexpr auto kPlacesA = places<8, 16>(fragments::a_element);
constexpr auto kPlacesB = places<4, 8>(fragments::b_element);
constexpr auto kPlacesC = places<4, 8>(fragments::c_element);

// Every half as a float: a warp converts 384 numbers for each mma.
const float* halves() {
  static const auto table = [] {
    std::vector<float> values(1 << 16);
    for (uint32_t i = 0; i < values.size(); ++i) values[i] = f32_from_f16(static_cast<uint16_t>(i));
    return values;
  }();
  return table.data();
}

template <size_t kElements, class Convert>
void gather(const Warp& warp, const void* Operands::* source,
            const std::array<std::array<uint16_t, kElements>, kWarpSize>& place, Convert convert,
            double* matrix) {
  for (size_t lane = 0; lane < kWarpSize; ++lane) {
    uint16_t element[kElements];
    std::memcpy(element, warp.operands[lane].*source, sizeof element);
    for (size_t i = 0; i < kElements; ++i) matrix[place[lane][i]] = convert(element[i]);
  }
}

// d += a * b. Products are exact in double; the sum of the 16 products and d is kept in double and
// rounded once to float. Hardware sums with fewer bits and truncates, in an order it does not tell,
// so results of a GPU differ from these by a few units of the last place of the largest term.
template <class Convert>
void mma(Warp& warp, Convert convert) {
  // Static: the last lane to arrive executes this, each time on another stack.
  static double a[16 * 16], b[16 * 8], d[16 * 8];
  gather(warp, &Operands::first, kPlacesA, convert, a);
  gather(warp, &Operands::second, kPlacesB, convert, b);
  for (size_t lane = 0; lane < kWarpSize; ++lane) {
    const float* const from = static_cast<const float*>(warp.operands[lane].result);
    for (size_t i = 0; i < 4; ++i) d[kPlacesC[lane][i]] = from[i];
  }
  for (int m = 0; m < 16; ++m) {
    double sum[8];
    for (int n = 0; n < 8; ++n) sum[n] = d[8 * m + n];
    for (int k = 0; k < 16; ++k) {
      const double factor = a[16 * m + k];
      for (int n = 0; n < 8; ++n) sum[n] += factor * b[8 * k + n];
    }
    for (int n = 0; n < 8; ++n) d[8 * m + n] = sum[n];
  }
  for (size_t lane = 0; lane < kWarpSize; ++lane) {
    float* const to = static_cast<float*>(warp.operands[lane].result);
    for (size_t i = 0; i < 4; ++i) to[i] = static_cast<float>(d[kPlacesC[lane][i]]);
  }
}

void mma_half(Warp& warp) {
  const float* const table = halves();
  mma(warp, [table](uint16_t bits) { return static_cast<double>(table[bits]); });
}
void mma_bfloat(Warp& warp) {
  mma(warp, [](uint16_t bits) { return static_cast<double>(f32_from_bf16(bits)); });
}

}  // namespace

const Collective kSyncWarp{"sync_warp", sync_warp};
const Collective kShuffleXor{"shuffle_xor", shuffle_xor};
const Collective kLdmatrixX4{"ldmatrix_x4", ldmatrix_x4};
const Collective kMmaHalf{"mma_16x8x16<Half>", mma_half};
const Collective kMmaBfloat{"mma_16x8x16<Bfloat>", mma_bfloat};

}  // namespace qcore::simt
