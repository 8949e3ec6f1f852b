// Starts CUDA kernels in the emulator, as cuda::Launcher does on a GPU.
#pragma once

#include "gpu_cases.h"
#include "simt/hopper.h"
#include "simt/simt.h"

namespace qcore::testing {

// How blocks and threads take turns.
struct Schedule {
  simt::Order order = simt::Order::ascending;
  uint32_t seed = 0;
  int resident_blocks = 3;
};

inline Schedule any_schedule(Rng& rng) {
  using simt::Order;
  return {pick(rng, {Order::ascending, Order::descending, Order::shuffled}),
          static_cast<uint32_t>(rng()), pick(rng, {1, 2, 5})};
}

class Emulator {
 public:
  explicit Emulator(const Schedule& schedule = {}) : schedule_(schedule) {}

  template <class Kernel>
  Status operator()(int blocks, int shared_bytes, const typename Kernel::Params& params) const {
    int resident = schedule_.resident_blocks;
    if constexpr (requires { Kernel::meets_grid(params); }) {
      if (Kernel::meets_grid(params)) resident = blocks;
    }
    simt::launch({.name = __PRETTY_FUNCTION__,
                  .grid = blocks,
                  .threads = Kernel::kThreads,
                  .shared_bytes = shared_bytes,
                  .order = schedule_.order,
                  .seed = schedule_.seed,
                  .resident_blocks = resident},
                 [&] { Kernel::run(params); });
    return {};
  }

  Status tensor_map(const TensorFacts& facts, TensorMap& map) const {
    if (Status status = facts.check(); !status.ok()) return status;
    simt::make_tensor_map(facts, map);
    return {};
  }

 private:
  Schedule schedule_;
};

}  // namespace qcore::testing
