// Kernels with one fault each, which the emulator must find, and which run clean without it.
#pragma once

#include <array>
#include <cstdint>
#include <ostream>

#include "ptx/base.cuh"
#include "simt/simt.h"

namespace qcore::planted {

using namespace ptx;

inline constexpr int kThreads = 64;

struct Memory {
  const uint32_t* in;  // read only, one number per thread and two more
  uint32_t* out;       // write once, one number per thread and block
  uint32_t* work;      // uninitialised, likewise
  bool wrong;          // run the planted fault
  uint32_t t = static_cast<uint32_t>(thread_index());
  uint32_t block = static_cast<uint32_t>(block_index());
  uint32_t lane = t % 32, before = t == 0 ? 0 : t - 1, after = (t + 1) % kThreads;
};

struct Planted {
  const char* name;
  const char* says;  // the message, blocks and threads ascending
  void (*kernel)(const Memory& m);
};

inline void PrintTo(const Planted& planted, std::ostream* out) {
  *out << planted.name;
}

inline SharedAddress number(uint32_t i) {
  return 4 * i;
}
inline SharedAddress line(uint32_t i) {
  return 16 * i;
}
inline void copy_line(const Memory& m, uint32_t to) {
  copy_async_16(line(to), m.in, 16);
}

inline const Planted kPlanted[] = {
    {"LoadBesideStoreWithoutBarrier",
     "load_shared: byte 0 of shared memory was written by thread 0 (warp 0, lane 0), and no "
     "meeting",
     [](const Memory& m) {
       store_shared(number(m.t), m.t);
       if (!m.wrong) sync_block();
       load_shared<uint32_t>(number(m.before));
     }},
    {"WarpBarrierBetweenWarps", "was written by thread 31 (warp 0, lane 31)",
     [](const Memory& m) {
       store_shared(number(m.t), m.t);
       m.wrong ? sync_warp() : sync_block();
       load_shared<uint32_t>(number(m.before));
     }},
    {"ReuseWithoutBarrier", "store_shared: byte 4 of shared memory was read by thread 0",
     [](const Memory& m) {
       store_shared(number(m.t), m.t);
       sync_block();
       load_shared<uint32_t>(number(m.after));
       if (!m.wrong) sync_block();
       store_shared(number(m.t), m.t);
     }},
    {"ReuseAfterTwoReaders", "was read by thread 0",
     [](const Memory& m) {
       if (m.t == 1) store_shared(0, 7u);
       sync_block();
       if (m.t < 2) load_shared<uint32_t>(0);
       if (!m.wrong) sync_block();
       if (m.t == 1) store_shared(0, 8u);
     }},
    {"BytesOfOneLine", "byte 3 of shared memory was written by thread 0",
     [](const Memory& m) {
       if (m.t < 4) store_shared<uint8_t>(m.t + (m.wrong ? 3 - m.t : 0), 1);
     }},
    {"StoreBesideStore", "was written by thread 0",
     [](const Memory& m) { store_shared(number(m.wrong ? 0 : m.t), m.t); }},
    {"NoWarpBarrier", "was written by thread 0 (warp 0, lane 0)",
     [](const Memory& m) {
       store_shared(number(m.t), m.t);
       if (!m.wrong) sync_warp();
       load_shared<uint32_t>(number(m.lane == 0 ? m.t : m.t - 1));
     }},
    {"ShuffleOrdersNoMemory", "was written by thread 30 (warp 0, lane 30)",
     [](const Memory& m) {
       store_shared(number(m.t), m.t);
       shuffle_xor(0, 1);
       if (!m.wrong) sync_warp();
       load_shared<uint32_t>(number(m.lane == 0 ? m.t : m.t - 1));
     }},
    {"ObjectBesideStoreWithoutBarrier", "shared_object: byte 0 of shared memory was written by",
     [](const Memory& m) {
       store_shared(number(m.t), m.t);
       if (!m.wrong) sync_block();
       shared_object<std::array<uint8_t, 4>>(number(m.before));
     }},
    {"LdmatrixOfOwnRowsWithoutBarrier", "ldmatrix_x4, row of lane 0: byte 0",
     [](const Memory& m) {
       store_shared<Vec16>(line(m.t), {});
       if (!m.wrong) sync_warp();
       uint32_t r[4];
       ldmatrix_x4(r, line(m.t));
     }},
    {"StoreAfterLdmatrix", "was read by warp 0 in ldmatrix",
     [](const Memory& m) {
       store_shared<Vec16>(line(m.t), {});
       sync_warp();
       uint32_t r[4];
       ldmatrix_x4(r, line(m.t));
       if (!m.wrong) sync_warp();
       store_shared<Vec16>(line(m.t), {});
     }},
    {"UninitialisedShared", "load_shared: byte 0 of shared memory is uninitialised",
     [](const Memory& m) {
       if (!m.wrong) store_shared(number(m.t), m.t);
       load_shared<uint32_t>(number(m.t));
     }},
    {"SharedOutOfRange", "4 bytes at shared offset 2048 are outside of the block's 2048 bytes",
     [](const Memory& m) { store_shared(number(512 - kThreads + m.t + (m.wrong ? 1 : 0)), 0u); }},
    {"SharedMisaligned", "4 bytes at shared offset 2 are misaligned",
     [](const Memory& m) { store_shared(number(m.t) + (m.wrong ? 2 : 0), 0u); }},
    {"LdmatrixMisaligned", "ldmatrix_x4: 16 bytes at shared offset 8 are misaligned",
     [](const Memory& m) {
       store_shared<Vec16>(line(m.t), {});
       sync_block();
       uint32_t r[4];
       ldmatrix_x4(r, line(m.t) + (m.wrong ? 8 : 0));
     }},

    {"CopyWithoutWait", "is in flight: copy_async_16 of thread 0",
     [](const Memory& m) {
       copy_line(m, m.t);
       copy_async_commit();
       if (!m.wrong) copy_async_wait<0>();
       load_shared<uint32_t>(line(m.t));
     }},
    {"CopyWithoutWaitBehindBarrier", "is in flight: copy_async_16 of thread 1 ",
     [](const Memory& m) {
       copy_line(m, m.t);
       copy_async_commit();
       if (!m.wrong) copy_async_wait<0>();
       sync_block();
       load_shared<uint32_t>(line(m.after));
       copy_async_wait<0>();
     }},
    {"CopyWithoutCommit", "is in flight",
     [](const Memory& m) {
       copy_line(m, m.t);
       if (!m.wrong) copy_async_commit();
       copy_async_wait<0>();
       load_shared<uint32_t>(line(m.t));
     }},
    {"PipelineOffByOne", "is in flight",
     [](const Memory& m) {
       for (uint32_t stage = 0; stage < 6; ++stage) {  // two under way, the third is used
         if (stage < 4) copy_line(m, stage % 2 * kThreads + m.t);
         copy_async_commit();
         if (stage == 0) continue;
         m.wrong ? copy_async_wait<2>() : copy_async_wait<1>();
         if (stage <= 4) load_shared<uint32_t>(line((stage - 1) % 2 * kThreads + m.t));
       }
     }},
    {"CopyOfOtherThreadWithoutBarrier", "was written by thread 0",
     [](const Memory& m) {
       copy_line(m, m.t);
       copy_async_commit();
       copy_async_wait<0>();
       if (!m.wrong) sync_block();
       load_shared<uint32_t>(line(m.before));
     }},
    {"CopyOntoBytesInUse", "copy_async_16: byte 16 of shared memory was read by thread 0",
     [](const Memory& m) {
       store_shared<Vec16>(line(m.t), {});
       sync_block();
       load_shared<uint32_t>(line(m.after));
       if (!m.wrong) sync_block();
       copy_line(m, m.t);
       copy_async_commit();
       copy_async_wait<0>();
     }},
    {"CopyOntoLineInUse", "copy_async_16: byte 16 of shared memory was read by thread 0",
     [](const Memory& m) {
       store_shared<Vec16>(line(m.t), {});
       sync_block();
       load_shared<Vec16>(line(m.after));
       if (!m.wrong) sync_block();
       copy_line(m, m.t);
       copy_async_commit();
       copy_async_wait<0>();
     }},
    {"StoreIntoFlight", "store_shared: byte 4 of shared memory is in flight",
     [](const Memory& m) {
       copy_line(m, m.t);
       copy_async_commit();
       if (!m.wrong) copy_async_wait<0>();
       store_shared(line(m.t) + 4, 0u);
       copy_async_wait<0>();
     }},
    {"ExitWithCopyUnderWay", "exits while its copy_async_16 to shared offset 0 was not waited for",
     [](const Memory& m) {
       copy_line(m, m.t);
       copy_async_commit();
       if (!m.wrong) copy_async_wait<0>();
     }},
    {"NewestGroupIsUnderWay", "byte 1024 of shared memory is in flight",
     [](const Memory& m) {
       copy_line(m, m.t);
       copy_async_commit();
       copy_line(m, kThreads + m.t);
       copy_async_commit();
       copy_async_wait<1>();
       load_shared<uint32_t>(line(m.t + (m.wrong ? kThreads : 0)));
       copy_async_wait<0>();
     }},
    {"CopyFromMisaligned", "copy_async_16: 16 bytes at in + 8 of 264 are misaligned",
     [](const Memory& m) {
       copy_async_16(line(m.t), m.in + (m.wrong ? 2 : 0), 0);
       copy_async_commit();
       copy_async_wait<0>();
     }},
    {"CopyPastTheEnd", "copy_async_16: 12 bytes at in + 256 of 264, outside of global memory",
     [](const Memory& m) {
       copy_async_16(line(kThreads + m.t), m.in + 1024,
                     0);  // without bytes it may come from anywhere
       copy_async_16(line(m.t), m.in + kThreads, m.wrong ? 12 : 8);
       copy_async_commit();
       copy_async_wait<0>();
     }},

    {"StorePastTheEnd", "store_global: 4 bytes at out + 256 of 256, outside of global memory",
     [](const Memory& m) { store_global(m.out + m.t + (m.wrong ? 1 : 0), 0u); }},
    {"LoadPastTheEnd", "load_global: 16 bytes at in + 256 of 264, outside of global memory",
     [](const Memory& m) {
       load_global(reinterpret_cast<const Vec16*>(m.in + kThreads - (m.wrong ? 0 : 4)));
     }},
    {"StoreToReadOnly", "store_global: 4 bytes at in + 0 of 264, which is read-only",
     [](const Memory& m) {
       store_global(m.wrong ? const_cast<uint32_t*>(m.in) + m.t : m.out + m.t, 0u);
     }},
    {"LoadMisaligned", "load_global: 16 bytes at in + 4 of 264 are misaligned",
     [](const Memory& m) {
       load_global(reinterpret_cast<const Vec16*>(m.in + (m.wrong ? 1 : 4)));
     }},
    {"TwoThreadsOneElement", "out + 0 of 256, which block 0, thread 0 stored before",
     [](const Memory& m) { store_global(m.out + (m.wrong ? m.t / 2 : m.t), 0u); }},
    {"UninitialisedWorkspace", "load_global: 4 bytes at work + 0 of 256, of which byte 0 is uninit",
     [](const Memory& m) {
       if (!m.wrong) store_global(m.work + m.t, 0u);
       load_global(m.work + m.t);
     }},

    {"DivergentCollective", "mma_16x8x16<Half>: its warp diverges:",
     [](const Memory& m) {
       float d[4] = {};
       if (m.wrong && m.lane < 16) {
         sync_warp();
       } else {
         mma_16x8x16<Half>(d, {}, {});
       }
     }},
    {"DivergentCallSite",
     "sync_warp: its warp diverges:\n  block 0, warp 0: 16 lanes at sync_warp, ",
     [](const Memory& m) {
       if (m.wrong && m.lane < 16) {
         sync_warp();
       } else {
         sync_warp();
       }
     }},
    {"BarrierInDivergentCode", "sync_block: its warp diverges:",
     [](const Memory& m) {
       if (m.wrong && m.lane == 31) {
         sync_block();
       } else {
         sync_block();
       }
     }},
    {"BarrierBesideCollective", "sync_block: its warp diverges:",
     [](const Memory& m) {
       if (m.wrong && m.lane == 31) sync_block();
       sync_warp();
       if (!m.wrong || m.lane != 31) sync_block();
     }},
    {"BarrierNotReachedByOneWarp",
     "thread 32 (warp 1, lane 0): exits while others of its block wait for it:\n"
     "  block 0, warp 0: 32 lanes at sync_block, ",
     [](const Memory& m) {
       if (!m.wrong || m.t < 32) sync_block();
     }},
    {"OneLaneExits", "thread 5 (warp 0, lane 5): exits while others of its block wait for it",
     [](const Memory& m) {
       if (m.wrong && m.t == 5) return;
       sync_warp();
     }},
    {"WaitsForever", "livelock, nobody makes progress",
     [](const Memory& m) {
       if (m.t == 63 && !m.wrong) store_global(m.work, 1u);
       sync_block();
       if (m.wrong && m.t == 0) store_global(m.work, 0u);
       sync_block();
       while (load_global(m.work) == 0) simt::pause();
     }},
};

}  // namespace qcore::planted
