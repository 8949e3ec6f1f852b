// Products of a warpgroup (wgmma) in the emulator: what is under way, and where its sums belong.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "simt/thread.h"

namespace qcore::simt {

enum class ElementKind { int8, e4m3, e5m2, half, bfloat };

// One wgmma as a thread calls it. A in registers if `a_registers`, else by its descriptor. `sums`
// are 32-bit numbers of the thread, n / 2 of them.
struct WgmmaCall {
  ElementKind a_kind, b_kind;
  int n;
  void* sums;
  const uint32_t* a_registers;
  uint64_t a, b;
  bool accumulate;
};

// Sums under way: their true values, while the registers hold poison.
struct WgmmaSums {
  std::vector<uint32_t*> registers;  // of each thread of the warpgroup
  int n = 0;
  bool integer = false;
  std::vector<uint32_t> value;  // [64, n], fp32 or int32 by their bits
  uint64_t last = 0;            // the last product that adds to them
  uint32_t landed = 0;          // warps whose registers have them
};

// Registers of A that a product reads until it was waited for.
struct WgmmaRegisters {
  const uint32_t* at;
  uint32_t value[4];
};

struct WgmmaProduct {
  uint64_t number;
  std::vector<uint32_t> lines;    // of shared memory, being read
  uint32_t waited = 0;            // warps
  std::vector<WgmmaRegisters> a;  // of each thread, if A is in registers
};

struct WarpGroup : Waitable {
  std::string describe() const override;
  // Has the warp (0 .. 3) products that it did not wait for?
  bool under_way(int warp) const { return warps[warp].waited < issued; }

  struct PerWarp {
    bool fenced = false;
    uint64_t waited = 0;              // products up to this one
    std::deque<uint64_t> group_ends;  // committed
    uint64_t committed = 0;
  };
  PerWarp warps[4];
  uint64_t issued = 0;
  uint32_t arrived = 0;  // warps at the product after those
  std::deque<WgmmaProduct> products;
  std::vector<std::unique_ptr<WgmmaSums>> sums;
};

void wgmma_fence(std::source_location where);
void wgmma_product(const WgmmaCall& call, std::source_location where);
void wgmma_commit(std::source_location where);
void wgmma_wait(size_t pending, std::source_location where);
// Faults if the running thread's sums are under way.
void wgmma_own(const void* sums, std::source_location where);

// ---- wgmma_arithmetic.cpp

// sums [64, n] += A [64, 32 bytes] * B [n, 32 bytes].
void wgmma_multiply(const WgmmaCall& call, const unsigned char (&a)[64][32],
                    const unsigned char (&b)[256][32], uint32_t* sums);

}  // namespace qcore::simt
