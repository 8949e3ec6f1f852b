// What a Hopper has, for host and kernels.
#pragma once

namespace qcore {

inline constexpr int kHopperSharedBytes = 227 << 10;  // that one block may have

// Of a stage of a Ring: ring.cuh.
inline constexpr int kRingBarrierBytes = 16;

// Estimates for plans, in clocks of one multiprocessor: bytes of global memory and of the L2 cache
// that come in one, clocks to fill a pipeline, and those of one more launch.
inline constexpr double kHopperGlobalBytes = 21, kHopperCacheBytes = 32;
inline constexpr double kHopperStart = 1500, kHopperLaunch = 4000;

}  // namespace qcore
