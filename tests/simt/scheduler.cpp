// Fibers, and which one runs next. A thread that has to wait switches straight to another one; in a
// warp they take turns in a ring, so that a collective costs one switch per lane.
#include <algorithm>
#include <bit>
#include <boost/context/detail/fcontext.hpp>
#include <cstdlib>
#include <exception>
#include <random>

#include "ptx/bits8.cuh"
#include "simt/global_memory.h"
#include "simt/hopper.h"
#include "simt/stacks.h"
#include "simt/thread.h"

namespace qcore::simt {
namespace {

using boost::context::detail::fcontext_t;
using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

// Pauses in a row after which nobody is expected to make progress any more.
constexpr int kPatience = 1 << 20;
// Order::shuffled leaves the warp after one in so many collectives.
constexpr uint32_t kStay = 8;

struct Run {
  const Launch& launch;
  const std::function<void()>& body;
  std::vector<Block> residents;
  fcontext_t host = nullptr;
  std::exception_ptr error;
  std::mt19937 random;
  int pauses = 0;
  int blocks_at_grid = 0, grid_meetings = 0;
};
Run* run = nullptr;

Stacks& stacks() {
  static Stacks all;
  return all;
}

bool shuffled() {
  return run->launch.order == Order::shuffled;
}

[[noreturn]] void leave_to_host() {
  void* never_resumed;
  jump_fcontext(run->host, &never_resumed);
  std::abort();
}

void go_to(Thread* next) {
  if (next != current_thread) switch_to(next);
}

// ---- Whose turn it is

// The runnable lane that follows `lane` in the ring, this one last.
Thread* next_in_warp(Warp& warp, int lane) {
  const uint32_t lanes = warp.runnable();
  if (run->launch.order == Order::descending) {
    const uint32_t before = std::rotr(lanes, lane);  // lane - 1 is the highest bit
    return &warp.lanes[(lane - 1 - std::countl_zero(before)) & (kWarpSize - 1)];
  }
  const uint32_t after = std::rotr(lanes, lane + 1);
  return &warp.lanes[(lane + 1 + std::countr_zero(after)) & (kWarpSize - 1)];
}

// A runnable thread of the next warp, of this block or else of the next one; of this warp if there
// is no other. Null if nobody can run.
Thread* pick() {
  const bool descending = run->launch.order == Order::descending;
  const size_t warps = run->residents[0].warps.size(), all = run->residents.size() * warps;
  const auto place = [&](size_t warp) { return descending ? warps - 1 - warp : warp; };
  size_t at;
  if (shuffled()) {
    at = run->random() % all;
  } else {
    const size_t slot = static_cast<size_t>(current_thread->block - run->residents.data());
    at = slot * warps + place(static_cast<size_t>(current_thread->warp->index)) + 1;
  }
  for (size_t i = 0; i < all; ++i, ++at) {
    Block& block = run->residents[at % all / warps];
    Warp& warp = block.warps[place(at % warps)];
    if (!block.alive || warp.runnable() == 0) continue;
    const int before_first = descending ? 0 : kWarpSize - 1;
    return next_in_warp(warp,
                        shuffled() ? static_cast<int>(run->random() % kWarpSize) : before_first);
  }
  return nullptr;
}

// Of the threads of one block, or of all.
std::string who_waits(const Block* only) {
  std::string text;
  for (const Block& block : run->residents) {
    if (!block.alive || (only != nullptr && only != &block)) continue;
    for (const Warp& warp : block.warps) {
      const auto line = [&](uint32_t lanes, const std::string& does) {
        if (lanes == 0) return;
        text += "\n  block " + std::to_string(block.index) + ", warp " +
                std::to_string(warp.index) + ": " + std::to_string(std::popcount(lanes)) +
                (lanes == 1u << std::countr_zero(lanes) ? " lane " : " lanes ") + does;
      };
      line(warp.at_barrier, "at sync_block, " + file_and_line(warp.where));
      if (warp.arrived != 0) {
        line(warp.arrived,
             std::string("at ") + warp.collective->name + ", " + file_and_line(warp.where));
      }
      for (uint32_t lanes = warp.asleep; lanes != 0;) {  // those that sleep on the same together
        const Thread& first = warp.lanes[std::countr_zero(lanes)];
        uint32_t same = 0;
        for (int lane = 0; lane < kWarpSize; ++lane) {
          const bool asleep = lanes >> lane & 1;
          if (asleep && warp.lanes[lane].sleeps_on == first.sleeps_on) same |= 1u << lane;
        }
        line(same, "at " + first.sleeps_on->describe() + ", " + file_and_line(first.sleeps_at));
        lanes &= ~same;
      }
      line(warp.finished, "exited");
      line(warp.runnable(), "running");
    }
  }
  return text;
}

Thread* pick_or_fault(const std::source_location& where) {
  Thread* const next = pick();
  if (next == nullptr) fault("deadlock, nobody can run:" + who_waits(nullptr), where);
  return next;
}

void go_on_elsewhere(const std::source_location& where) {
  Thread* const self = current_thread;
  switch_to(self->warp->runnable() != 0 ? next_in_warp(*self->warp, self->lane)
                                        : pick_or_fault(where));
}

// ---- A thread from start to end

void exit_thread() {
  Thread& self = *current_thread;
  Warp& warp = *self.warp;
  Block& block = *self.block;
  const std::source_location nowhere{};
  if (const CopyQueue::Copy* const copy = self.copies.oldest()) {
    fault("exits while its copy_async_16 to shared offset " + std::to_string(copy->to) +
              " was not waited for",
          nowhere);
  }
  if (warp.arrived != 0 || block.waiting != 0) {
    fault("exits while others of its block wait for it:" + who_waits(&block), nowhere);
  }
  check_exit(self);
  run->pauses = 0;
  warp.finished |= 1u << self.lane;
  if (++block.finished == static_cast<int>(block.threads.size())) {
    check_end(block);
    leave_to_host();
  }
  go_on_elsewhere(nowhere);
}

void fiber(transfer_t t) {
  *static_cast<void**>(t.data) = t.fctx;
  try {
    run->body();
    exit_thread();
  } catch (...) {
    run->error = std::current_exception();
  }
  leave_to_host();
}

void start(Block& block, int index) {
  const Launch& launch = run->launch;
  const size_t threads = static_cast<size_t>(launch.threads);
  const size_t slot = static_cast<size_t>(&block - run->residents.data());
  block.index = index;
  block.alive = true;
  block.waiting = block.finished = 0;
  block.hopper.reset();
  block.warps.assign(threads / kWarpSize, Warp{});
  block.threads.resize(threads);
  block.shared.reset(launch.shared_bytes, launch.threads / kWarpSize);
  for (size_t i = 0; i < threads; ++i) {
    Thread& thread = block.threads[i];
    Warp& warp = block.warps[i / kWarpSize];
    thread.context = make_fcontext(stacks().top(slot * threads + i), Stacks::kBytes, fiber);
    thread.block = &block;
    thread.warp = &warp;
    thread.index = static_cast<int>(i);
    thread.lane = static_cast<int>(i % kWarpSize);
    thread.copies.clear();
    thread.sleeps_on = nullptr;
    if (thread.lane == 0) {
      warp.block = &block;
      warp.lanes = &thread;
      warp.index = static_cast<int>(i / kWarpSize);
      warp.turn = launch.order == Order::descending ? -1 : 1;
    }
  }
}

}  // namespace

int grid_of_launch() {
  return run->launch.grid;
}

std::string file_and_line(const std::source_location& where) {
  const std::string path = where.file_name();
  return path.substr(path.rfind('/') + 1) + ":" + std::to_string(where.line());
}

void fault(const std::string& what, const std::source_location& where) {
  const Thread& self = *current_thread;
  std::string text = std::string(run->launch.name) + ": block " +
                     std::to_string(self.block->index) + ", thread " + std::to_string(self.index) +
                     " (warp " + std::to_string(self.warp->index) + ", lane " +
                     std::to_string(self.lane) + ")";
  if (where.line() != 0) text += " at " + file_and_line(where);
  throw Fault(text + ": " + what);
}

void diverges(const Collective& collective, const std::source_location& where) {
  fault(std::string(collective.name) + ": its warp diverges:" + who_waits(current_thread->block),
        where);
}

void sleep_on(Waitable& what, const std::source_location& where) {
  Thread& self = *current_thread;
  self.sleeps_on = &what;
  self.sleeps_at = where;
  self.warp->asleep |= 1u << self.lane;
  what.waiting.push_back(&self);
  go_on_elsewhere(where);
}

void wake(Waitable& what) {
  for (Thread* thread : what.waiting) {
    thread->warp->asleep &= ~(1u << thread->lane);
    thread->sleeps_on = nullptr;
  }
  what.waiting.clear();
  run->pauses = 0;
}

void maybe_switch() {
  if (shuffled() && run->random() % kStay == 0) go_to(pick());
}

int elected_lane() {
  if (shuffled()) return static_cast<int>(run->launch.seed % kWarpSize);
  return run->launch.order == Order::descending ? kWarpSize - 1 : 0;
}

void leave_warp(const std::source_location& where) {
  go_on_elsewhere(where);
}

void complete(const Collective& collective, Warp& warp) {
  collective.execute(warp);
  warp.arrived = 0;
  run->pauses = 0;
  maybe_switch();
}

void meet_block(std::source_location where) {
  Thread& self = *current_thread;
  Warp& warp = *self.warp;
  Block& block = *self.block;
  const bool other_place = warp.at_barrier != 0 && (warp.where.line() != where.line() ||
                                                    warp.where.column() != where.column());
  if (warp.arrived != 0 || other_place) [[unlikely]] {
    fault("sync_block: its warp diverges:" + who_waits(self.block), where);
  }
  if (block.finished != 0) [[unlikely]] {
    fault("sync_block: not all threads of the block are left:" + who_waits(&block), where);
  }
  warp.where = where;
  warp.at_barrier |= 1u << self.lane;
  if (++block.waiting != static_cast<int>(block.threads.size())) {
    go_on_elsewhere(where);
    return;
  }
  block.waiting = 0;
  for (Warp& each : block.warps) each.at_barrier = 0;
  block.shared.sync_block();
  run->pauses = 0;
  go_to(pick());
}

// One thread of each block counts the blocks; the others wait for it.
void meet_grid(std::source_location where) {
  if (run->residents.size() < static_cast<size_t>(run->launch.grid)) {
    fault("sync_grid: " + std::to_string(run->launch.grid) + " blocks, of which only " +
              std::to_string(run->residents.size()) + " are resident",
          where);
  }
  meet_block(where);
  if (current_thread->index == 0) {
    const int meeting = run->grid_meetings;
    if (++run->blocks_at_grid == run->launch.grid) {
      run->blocks_at_grid = 0;
      ++run->grid_meetings;
    }
    while (run->grid_meetings == meeting) pause(where);
  }
  meet_block(where);
}

void pause(std::source_location where) {
  if (++run->pauses > kPatience) {
    fault("livelock, nobody makes progress:" + who_waits(nullptr), where);
  }
  Thread& self = *current_thread;
  Thread* const next = next_in_warp(*self.warp, self.lane);
  const bool around =
      run->launch.order == Order::descending ? next->lane >= self.lane : next->lane <= self.lane;
  go_to(around ? pick() : next);
}

void launch(const Launch& launch, const std::function<void()>& body) {
  if (run != nullptr) throw std::logic_error("launch in a launch");
  if (launch.threads < kWarpSize || launch.threads % kWarpSize != 0 || launch.threads > 1024 ||
      launch.grid < 1 || launch.shared_bytes < 0 || launch.resident_blocks < 1) {
    throw std::invalid_argument("launch: bad sizes");
  }
  Run state{launch, body, {}, nullptr, nullptr, std::mt19937(launch.seed)};
  struct Active {
    explicit Active(Run& state) { run = &state; }
    ~Active() {
      run = nullptr;
      current_thread = nullptr;
    }
  } active(state);
  forget_writers_of_last_launch();

  std::vector<int> order(static_cast<size_t>(launch.grid));
  for (int i = 0; i < launch.grid; ++i) {
    order[static_cast<size_t>(i)] = launch.order == Order::descending ? launch.grid - 1 - i : i;
  }
  if (shuffled()) std::shuffle(order.begin(), order.end(), state.random);

  state.residents.resize(static_cast<size_t>(std::min(launch.grid, launch.resident_blocks)));
  size_t started = 0;
  for (Block& block : state.residents) start(block, order[started++]);
  std::vector<Thread>& last = state.residents.back().threads;
  current_thread = launch.order == Order::descending ? &last.front() : &last.back();
  for (size_t ended = 0; ended < order.size(); ++ended) {
    // Comes back when a block has ended, or on an error.
    current_thread = pick();
    jump_fcontext(current_thread->context, &state.host);
    if (state.error) std::rethrow_exception(state.error);
    Block& block = *current_thread->block;
    block.alive = false;
    if (started < order.size()) start(block, order[started++]);
  }
  check_guards(launch.name);
}

}  // namespace qcore::simt
