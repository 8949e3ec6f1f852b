// The emulated machine: blocks, warps and threads, and how threads meet. Used by ptx.h and by the
// parts of the emulator; tests need only simt.h.
#pragma once

#include <boost/context/detail/fcontext.hpp>
#include <cstdint>
#include <memory>
#include <source_location>
#include <string>
#include <vector>

#include "simt/shared_memory.h"
#include "simt/simt.h"

namespace qcore::simt {

inline constexpr int kWarpSize = 32;

struct Block;
struct Warp;
struct Thread;
struct Hopper;  // hopper.h

// What threads may sleep on until somebody wakes them.
struct Waitable {
  virtual ~Waitable() = default;
  virtual std::string describe() const = 0;

  std::vector<Thread*> waiting;
};

struct Thread {
  void* context = nullptr;  // where it stopped, of Boost.Context
  Block* block = nullptr;
  Warp* warp = nullptr;
  int index = 0;  // in the block
  int lane = 0;
  CopyQueue copies;
  const Waitable* sleeps_on = nullptr;
  std::source_location sleeps_at;
};

// What a lane brings to a collective and where it expects the result. It points into the lane's
// stack, which stands still until the collective is done.
struct Operands {
  void* result = nullptr;
  const void* first = nullptr;
  const void* second = nullptr;
  uint32_t number = 0;
};

// An operation that all lanes of a warp execute together; the last one to arrive executes it for
// all.
struct Collective {
  const char* name;
  void (*execute)(Warp&);
};

struct Warp {
  Block* block = nullptr;
  Thread* lanes = nullptr;
  int index = 0;
  int turn = 1;  // from a lane to the next one, modulo 32
  // Sets of lanes. All others can run.
  uint32_t arrived = 0;     // wait at `collective`
  uint32_t at_barrier = 0;  // wait at the block's barrier
  uint32_t finished = 0;
  uint32_t asleep = 0;  // wait for what Thread::sleeps_on says
  const Collective* collective = nullptr;
  std::source_location where;  // of the lanes that wait
  Operands operands[kWarpSize];

  uint32_t runnable() const { return ~(arrived | at_barrier | finished | asleep); }
};

struct Block {
  int index = -1;
  bool alive = false;
  int waiting = 0, finished = 0;  // threads
  std::vector<Warp> warps;
  std::vector<Thread> threads;
  SharedMemory shared;
  std::shared_ptr<Hopper> hopper;
};

// The thread that runs now.
inline Thread* current_thread = nullptr;
int grid_of_launch();

// Throws Fault for the running thread.
[[noreturn]] void fault(const std::string& what, const std::source_location& where);
std::string file_and_line(const std::source_location& where);

// The running thread lets others run until wake().
void sleep_on(Waitable& what, const std::source_location& where);
void wake(Waitable& what);
// With Order::shuffled, sometimes another thread goes on here.
void maybe_switch();
// Which lane elect_one chooses in this launch.
int elected_lane();

// The running thread waits for the other threads of its block.
void meet_block(std::source_location where);

// Leaves the running thread for another one; returns when somebody comes back.
inline void switch_to(Thread* next) {
  Thread* const self = current_thread;
  current_thread = next;
  const auto came_from =
      boost::context::detail::jump_fcontext(next->context, static_cast<void*>(&self->context));
  *static_cast<void**>(came_from.data) = came_from.fctx;
}

[[noreturn]] void diverges(const Collective& collective, const std::source_location& where);
void leave_warp(const std::source_location& where);
void complete(const Collective& collective, Warp& warp);

// The running thread waits for the other lanes of its warp; returns when the collective is done.
// Inline, as a return that follows a switch of stacks is never predicted.
[[gnu::always_inline]] inline void meet_warp(const Collective& collective, const Operands& operands,
                                             const std::source_location where) {
  Thread& self = *current_thread;
  Warp& warp = *self.warp;
  if (warp.arrived == 0) {
    if ((warp.at_barrier | warp.finished) != 0) [[unlikely]]
      diverges(collective, where);
    warp.collective = &collective;
    warp.where = where;
  } else if (warp.collective != &collective || warp.where.line() != where.line() ||
             warp.where.column() != where.column()) [[unlikely]] {
    diverges(collective, where);
  }
  warp.operands[self.lane] = operands;
  warp.arrived |= 1u << self.lane;
  if (warp.arrived == 0xffffffffu) {
    complete(collective, warp);
    return;
  }
  const int next = (self.lane + warp.turn) & (kWarpSize - 1);
  if ((warp.runnable() >> next & 1) != 0) [[likely]] {
    switch_to(&warp.lanes[next]);
  } else {
    leave_warp(where);
  }
}

// Collectives of ptx.h.
extern const Collective kSyncWarp, kShuffleXor, kLdmatrixX4, kMmaHalf, kMmaBfloat;

}  // namespace qcore::simt
