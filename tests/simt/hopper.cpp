// One elected lane, registers that move between warps, and what may not be left under way.
#include "simt/hopper.h"

namespace qcore::simt {
namespace {

constexpr int kRegisterFile = 65536;

// All warps of a block start with an equal part, a multiple of 8.
int registers_at_start(size_t threads) {
  return std::min(kRegisterFile / static_cast<int>(threads) / 8 * 8, 248);
}

void elect(Warp& warp) {
  const int chosen = elected_lane();
  for (int lane = 0; lane < kWarpSize; ++lane) {
    *static_cast<bool*>(warp.operands[lane].result) = lane == chosen;
  }
}
const Collective kElect{"elect_one", elect};

void together(Warp&) {}
const Collective kSetRegisters{"setmaxnreg", together};

}  // namespace

Hopper::Hopper(const Block& block) : groups(block.warps.size() / 4) {
  registers.of_warp.assign(block.warps.size(), registers_at_start(block.threads.size()));
  registers.changes.assign(block.warps.size(), 0);
}

Hopper& hopper() {
  Block& block = *current_thread->block;
  if (!block.hopper) block.hopper = std::make_shared<Hopper>(block);
  return *block.hopper;
}

std::string RegisterPool::describe() const {
  return "registers_increase: " + std::to_string(free) + " registers are free";
}

bool elect_one(std::source_location where) {
  bool chosen;
  meet_warp(kElect, {&chosen, nullptr, nullptr, 0}, where);
  return chosen;
}

void set_registers(int count, bool increase, std::source_location where) {
  RegisterPool& pool = hopper().registers;
  const size_t warp = static_cast<size_t>(current_thread->warp->index);
  const int change = count - pool.of_warp[warp];
  if (increase ? change < 0 : change > 0) {
    fault(std::string(increase ? "registers_increase" : "registers_decrease") + " to " +
              std::to_string(count) + ", where the warp has " + std::to_string(pool.of_warp[warp]),
          where);
  }
  const int asked = pool.changes[warp] + 1;
  meet_warp(kSetRegisters, {}, where);
  while (pool.changes[warp] != asked) {  // the first lane that can, for all
    if (change * 32 <= pool.free) {
      pool.free -= change * 32;
      pool.of_warp[warp] = count;
      pool.changes[warp] = asked;
      wake(pool);
    } else {
      sleep_on(pool, where);
    }
  }
}

void check_exit(const Thread& thread) {
  const std::source_location nowhere{};
  if (!thread.block->hopper) return;
  const Hopper& state = *thread.block->hopper;
  const size_t group = static_cast<size_t>(thread.warp->index) / 4;
  if (group < state.groups.size() && state.groups[group].under_way(thread.warp->index % 4)) {
    fault("exits while products of its warpgroup were not waited for", nowhere);
  }
  const auto stores = state.stores.find(thread.index);
  if (stores != state.stores.end() &&
      !(stores->second.open.empty() && stores->second.groups.empty())) {
    fault("exits while its store_tensor was not waited for", nowhere);
  }
}

void check_end(const Block& block) {
  const std::source_location nowhere{};
  if (!block.hopper) return;
  const Hopper& state = *block.hopper;
  for (const auto& [at, barrier] : state.barriers) {
    if (!barrier.copies.empty()) {
      fault("exits while copies for the barrier at shared offset " + std::to_string(at) +
                " were not waited for",
            nowhere);
    }
  }
  for (size_t warp = 0; warp < block.warps.size(); ++warp) {
    if (state.registers.changes[warp] != state.registers.changes[warp / 4 * 4]) {
      fault("setmaxnreg: not all warps of the warpgroup of warp " + std::to_string(warp) +
                " executed it",
            nowhere);
    }
  }
}

}  // namespace qcore::simt
