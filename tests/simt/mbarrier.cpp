// Barriers that count arrivals and bytes, and named barriers.
//
// Copies land at the latest moment that the hardware may choose: when all arrivals of their phase
// have come and somebody waits for it. Until then nobody may touch their bytes.
#include "simt/hopper.h"

namespace qcore::simt {
namespace {

Accessor me() {
  return static_cast<Accessor>(current_thread->index);
}
SharedMemory& shared() {
  return current_thread->block->shared;
}

void end_phase(Barrier& barrier) {
  barrier.pending = barrier.count;
  ++barrier.phase;
  barrier.done.resize(std::max(barrier.done.size(), barrier.open.size()), 0);
  for (size_t i = 0; i < barrier.open.size(); ++i) {
    barrier.done[i] = std::max(barrier.done[i], barrier.open[i]);
  }
  wake(barrier);
}

// Lets copies land if the phase waits for nothing else.
void land_copies(Barrier& barrier) {
  while (barrier.pending == 0 && !barrier.copies.empty()) {
    for (const TensorCopy::Piece& piece : barrier.copies.front().pieces) {
      shared().land(piece.at, barrier.copies_as, piece.bytes);
    }
    shared().release_copies(barrier.copies_as, barrier.open);
    barrier.bytes -= barrier.copies.front().bytes();
    barrier.copies.pop_front();
    if (barrier.bytes == 0) end_phase(barrier);
  }
}

bool has_ended(const Barrier& barrier, uint32_t parity) {
  return (barrier.phase & 1) != parity;
}

void sync_named(Warp& warp) {
  const uint32_t number = warp.operands[0].number;
  for (const Operands& lane : warp.operands) {
    if (lane.number != number) fault("sync_named: lanes name different barriers", warp.where);
  }
  NamedBarrier& barrier = hopper().named[number & 15];
  const uint32_t threads = number >> 4;
  if (barrier.arrived == 0) barrier.expected = threads;
  if (barrier.expected != threads) {
    fault("sync_named: barrier " + std::to_string(number & 15) + " of " + std::to_string(threads) +
              " threads, where others said " + std::to_string(barrier.expected),
          warp.where);
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    shared().release(static_cast<Accessor>(warp.index * 32 + lane), barrier.open);
  }
  barrier.arrived += 32;
  if (barrier.arrived < barrier.expected) return;
  barrier.done = std::exchange(barrier.open, {});
  barrier.arrived = 0;
  ++barrier.generation;
  wake(barrier);
}
const Collective kSyncNamed{"sync_named", sync_named};

}  // namespace

std::string Barrier::describe() const {
  return "barrier_wait for the barrier at shared offset " + std::to_string(at) + ", phase " +
         std::to_string(phase) + ": " + std::to_string(pending) + " of " + std::to_string(count) +
         " arrivals and " + std::to_string(bytes) + " bytes are missing";
}

std::string NamedBarrier::describe() const {
  return "sync_named " + std::to_string(number) + ": " + std::to_string(arrived) + " of " +
         std::to_string(expected) + " threads arrived";
}

void barrier_init(uint32_t at, uint32_t count, std::source_location where) {
  const Call call{"barrier_init", where};
  if (count < 1 || count >= 1 << 20) fault("barrier_init: bad count", where);
  Hopper& state = hopper();
  if (state.barriers.contains(at)) fault("barrier_init: there is a barrier already", where);
  shared().check_address(at, 8, call);
  Barrier& barrier = state.barriers[at];
  barrier.copies_as = shared().make_barrier(at, me(), call);
  barrier.at = at;
  barrier.count = barrier.pending = count;
  barrier.made_by = me();
  barrier.made_when = shared().now();
}

void fence_barrier_init() {
  for (auto& [at, barrier] : hopper().barriers) {
    if (barrier.made_by == me()) barrier.fenced = true;
  }
}

Barrier& find_barrier(uint32_t at, const Call& call) {
  const auto found = hopper().barriers.find(at);
  if (found == hopper().barriers.end()) {
    fault(std::string(call.name) + ": no barrier was made at shared offset " + std::to_string(at),
          call.where);
  }
  Barrier& barrier = found->second;
  shared().check_known(barrier.made_by, barrier.made_when, me(), call, "made this barrier");
  return barrier;
}

void barrier_arrive(uint32_t at, uint32_t bytes, const char* name, std::source_location where) {
  Barrier& barrier = find_barrier(at, {name, where});
  if (barrier.pending == 0) {
    fault(std::string(name) + ": the barrier at shared offset " + std::to_string(at) + " had its " +
              std::to_string(barrier.count) + " arrivals, and copies of this phase " +
              "were not waited for",
          where);
  }
  shared().release(me(), barrier.open);
  barrier.bytes += bytes;
  if (--barrier.pending == 0) {
    if (barrier.bytes == 0)
      end_phase(barrier);
    else if (!barrier.waiting.empty())
      land_copies(barrier);
  }
  maybe_switch();
}

bool barrier_test(uint32_t at, uint32_t parity, std::source_location where) {
  if (parity > 1) fault("barrier_wait: a parity is 0 or 1, not " + std::to_string(parity), where);
  Barrier& barrier = find_barrier(at, {"barrier_wait", where});
  if (!has_ended(barrier, parity)) land_copies(barrier);
  if (!has_ended(barrier, parity)) return false;
  shared().acquire(me(), barrier.done);
  return true;
}

void barrier_wait(uint32_t at, uint32_t parity, std::source_location where) {
  while (!barrier_test(at, parity, where)) sleep_on(hopper().barriers.at(at), where);
}

void add_copy(Barrier& barrier, TensorCopy copy) {
  barrier.copies.push_back(std::move(copy));
  if (!barrier.waiting.empty()) land_copies(barrier);
  maybe_switch();
}

void meet_named(int number, int threads, bool wait, std::source_location where) {
  if (number < 1 || number > 15) {
    fault("sync_named: expected a barrier 1 .. 15, got " + std::to_string(number), where);
  }
  const int all = static_cast<int>(current_thread->block->threads.size());
  if (threads < 32 || threads % 32 != 0 || threads > all) {
    fault("sync_named: expected whole warps of the block, got " + std::to_string(threads) +
              " threads",
          where);
  }
  shared().use_clocks();
  NamedBarrier& barrier = hopper().named[number];
  barrier.number = number;
  const uint32_t generation = barrier.generation;
  meet_warp(kSyncNamed, {nullptr, nullptr, nullptr, static_cast<uint32_t>(threads << 4 | number)},
            where);
  if (!wait) return;
  while (barrier.generation == generation) sleep_on(barrier, where);
  shared().acquire(me(), barrier.done);
}

}  // namespace qcore::simt
