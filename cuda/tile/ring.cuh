// A ring of stages in shared memory, filled by copies that one thread starts and emptied by warps
// that use what came.
//
// A stage is handed over by two barriers: "full" counts the bytes that arrived, "empty" one thread
// of every warp that has read it. Both change phase once a round, so the parity of the round says
// which phase to wait for. Each side keeps a Ring of its own and goes from stage to stage with it.
#pragma once

#include "ptx/hopper.cuh"
#include "tile/hopper.h"

namespace qcore {

class Ring {
 public:
  // The stages lie at `first`, and the barriers behind them.
  QCORE_DEVICE Ring(ptx::SharedAddress first, uint32_t stage_bytes, int stages)
      : first_(first), stage_bytes_(stage_bytes), stages_(stages) {}
  static_assert(kRingBarrierBytes == 2 * 8);

  // What follows the barriers.
  QCORE_DEVICE ptx::SharedAddress end() const {
    return barriers() + static_cast<uint32_t>(stages_ * kRingBarrierBytes);
  }

  // By one thread, before all meet.
  QCORE_DEVICE void make(uint32_t reading_warps) const {
    for (int s = 0; s < stages_; ++s) {
      ptx::barrier_init(full(s), 1);
      ptx::barrier_init(empty(s), reading_warps);
    }
    ptx::fence_barrier_init();
  }

  // The present stage: its number, where it lies, and the barrier of its copies.
  QCORE_DEVICE int stage() const { return stage_; }
  QCORE_DEVICE ptx::SharedAddress at() const {
    return first_ + static_cast<uint32_t>(stage_) * stage_bytes_;
  }
  QCORE_DEVICE ptx::SharedAddress full() const { return full(stage_); }
  QCORE_DEVICE void next() {
    if (++stage_ == stages_) {
      stage_ = 0;
      parity_ ^= 1;
    }
  }

  // Waits until the stage is free, and announces so many bytes.
  QCORE_DEVICE void start_filling(uint32_t bytes) const {
    ptx::barrier_wait(empty(stage_), parity_ ^ 1);  // at first, the phase before the first one
    ptx::barrier_arrive_expect(full(stage_), bytes);
  }

  QCORE_DEVICE void wait_until_full() const { ptx::barrier_wait(full(stage_), parity_); }
  // By all lanes of a warp that has read stage s.
  QCORE_DEVICE void release(int s) const {
    ptx::sync_warp();  // one of them speaks for the others
    if (ptx::thread_index() % 32 == 0) ptx::barrier_arrive(empty(s));
  }

 private:
  QCORE_DEVICE ptx::SharedAddress barriers() const {
    return first_ + static_cast<uint32_t>(stages_) * stage_bytes_;
  }
  QCORE_DEVICE ptx::SharedAddress full(int s) const {
    return barriers() + static_cast<uint32_t>(s * 8);
  }
  QCORE_DEVICE ptx::SharedAddress empty(int s) const {
    return barriers() + static_cast<uint32_t>((stages_ + s) * 8);
  }

  ptx::SharedAddress first_;
  uint32_t stage_bytes_;
  int stages_;
  int stage_ = 0;
  uint32_t parity_ = 0;  // of the round
};

}  // namespace qcore
