// What a block of an emulated Hopper has beyond ptx.h: barriers that count, copies for them, named
// barriers, registers that move between warps, and warpgroups with their products under way.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "ptx/tensor_map.h"
#include "simt/thread.h"
#include "simt/wgmma.h"

namespace qcore::simt {

// 16-byte pieces on their way to shared memory.
struct TensorCopy {
  struct Piece {
    uint32_t at;
    unsigned char bytes[16];
  };
  std::vector<Piece> pieces;
  uint32_t bytes() const { return static_cast<uint32_t>(pieces.size()) * 16; }
};

struct Barrier : Waitable {
  std::string describe() const override;

  uint32_t at = 0, count = 0;  // where, and the arrivals of a phase
  uint32_t pending = 0;        // of this phase
  int64_t bytes = 0;           // announced and not there yet
  uint32_t phase = 0;
  bool fenced = false;  // for the copy engine
  Accessor copies_as = kNobody, made_by = kNobody;
  uint32_t made_when = 0;
  Clock open, done;  // of those who arrived in this phase, and in the last ones
  std::deque<TensorCopy> copies;
};

struct NamedBarrier : Waitable {
  std::string describe() const override;

  int number = 0;
  uint32_t expected = 0, arrived = 0, generation = 0;
  Clock open, done;
};

// Registers that warps gave back.
struct RegisterPool : Waitable {
  std::string describe() const override;

  int free = 0;
  std::vector<int> of_warp;  // per thread
  std::vector<int> changes;
};

// The stores of one thread from shared to global memory.
struct TensorStores {
  using Lines = std::vector<uint32_t>;  // being read
  Lines open;                           // of no group yet
  std::deque<Lines> groups;             // oldest first
};

struct Hopper {
  explicit Hopper(const Block& block);

  std::map<uint32_t, Barrier> barriers;
  NamedBarrier named[16];
  RegisterPool registers;
  std::vector<WarpGroup> groups;
  std::map<int, TensorStores> stores;
  std::set<int> fenced_global;  // threads
};

// The running thread's. Made when first asked for.
Hopper& hopper();

// ---- mbarrier.cpp

void barrier_init(uint32_t at, uint32_t count, std::source_location where);
void fence_barrier_init();
void barrier_arrive(uint32_t at, uint32_t bytes, const char* name, std::source_location where);
bool barrier_test(uint32_t at, uint32_t parity, std::source_location where);
void barrier_wait(uint32_t at, uint32_t parity, std::source_location where);
Barrier& find_barrier(uint32_t at, const Call& call);
void add_copy(Barrier& barrier, TensorCopy copy);
void meet_named(int number, int threads, bool wait, std::source_location where);

// ---- registers and lanes (hopper.cpp)

bool elect_one(std::source_location where);
void set_registers(int count, bool increase, std::source_location where);
// Faults if the running thread, or a block that ends, leaves something under way.
void check_exit(const Thread& thread);
void check_end(const Block& block);

// ---- tensor_copy.cpp

void make_tensor_map(const TensorFacts& facts, TensorMap& map);
void check_tensor_map(const TensorMap& map, const char* name, std::source_location where);
void copy_tensor(uint32_t to, const TensorMap& map, std::vector<int64_t> coordinates,
                 uint32_t barrier, std::source_location where);
void store_tensor(const TensorMap& map, std::vector<int64_t> coordinates, uint32_t from,
                  std::source_location where);
void store_tensor_commit();
void store_tensor_wait(size_t pending);

}  // namespace qcore::simt
