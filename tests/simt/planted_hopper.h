// A small pipelined product with the instructions of Hopper, and everything that can go wrong in
// it: each mistake must be found, and the kernel runs clean without one.
#pragma once

#include <cstdint>
#include <ostream>

#include "ptx/fragments.h"
#include "ptx/hopper.cuh"

namespace qcore::planted {

enum class Mistake {
  none,
  // barriers
  barrier_without_meeting,
  barrier_not_fenced_for_copies,
  no_expect,
  expects_less,
  expects_more,
  wrong_parity_of_full,
  no_wait_for_full,
  wrong_parity_of_empty,
  no_wait_for_empty,
  too_few_arrivals,
  too_many_arrivals,
  store_onto_barrier,
  // copies
  misaligned_copy,
  copy_nobody_waits_for,
  no_tensor_map,
  // products
  no_wgmma_fence,
  sums_used_before_wait,
  sums_changed_before_wait,
  released_before_wait,
  released_one_group_early,
  not_committed,
  descriptor_of_other_stage,
  descriptor_past_row,
  descriptor_of_other_swizzle,
  descriptors_differ,
  descriptor_unknown_bits,
  one_warp_missing,
  // results, through shared memory
  no_proxy_fence,
  proxy_fence_before_store,
  no_meeting_before_store_tensor,
  staging_reused_early,
  store_not_waited_for,
  // named barriers and registers
  named_barrier_count,
  named_barrier_zero,
  named_barrier_missing_warp,
  registers_beyond_budget,
  registers_one_warp,
};

struct PlantedHopper {
  Mistake mistake;
  const char* name;
  const char* says;  // part of the message
};
inline void PrintTo(const PlantedHopper& planted, std::ostream* out) {
  *out << planted.name;
}

#define QCORE_PLANTED(mistake, says) {Mistake::mistake, #mistake, says}
inline const PlantedHopper kPlantedHopper[] = {
    QCORE_PLANTED(barrier_without_meeting, "made this barrier, and no meeting point"),
    QCORE_PLANTED(barrier_not_fenced_for_copies, "called no fence_barrier_init"),
    QCORE_PLANTED(no_expect, "is in flight: copy_tensor for the barrier at shared offset "),
    QCORE_PLANTED(expects_less, "is in flight: copy_tensor for the barrier at shared offset "),
    QCORE_PLANTED(expects_more, "0 of 1 arrivals and 16 bytes are missing"),
    QCORE_PLANTED(wrong_parity_of_full, "wgmma: byte 0 of shared memory is"),
    QCORE_PLANTED(no_wait_for_full, "wgmma: byte 0 of shared memory is"),
    QCORE_PLANTED(wrong_parity_of_empty, "4 of 4 arrivals"),
    QCORE_PLANTED(no_wait_for_empty, "of this phase were not waited for"),
    QCORE_PLANTED(too_few_arrivals, "deadlock, nobody can run:"),
    QCORE_PLANTED(too_many_arrivals, "had its 1 arrivals"),
    QCORE_PLANTED(store_onto_barrier, "belongs to a barrier"),
    QCORE_PLANTED(misaligned_copy, "is not a multiple of 1024"),
    QCORE_PLANTED(copy_nobody_waits_for, "exits while copies for the barrier at shared offset"),
    QCORE_PLANTED(no_tensor_map, "this is no tensor map"),
    QCORE_PLANTED(no_wgmma_fence, "no wgmma_fence since the registers of its sums"),
    QCORE_PLANTED(sums_used_before_wait, "the sums are under way, they were not waited for"),
    QCORE_PLANTED(sums_changed_before_wait, "sums were touched while under way"),
    QCORE_PLANTED(released_before_wait, "wgmma or store_tensor"),
    QCORE_PLANTED(released_one_group_early, "wgmma or store_tensor"),
    QCORE_PLANTED(not_committed, "exits while products of its warpgroup were not waited for"),
    QCORE_PLANTED(descriptor_of_other_stage, "wgmma: byte "),
    QCORE_PLANTED(descriptor_past_row, "the descriptor starts at byte 112 of rows of 128"),
    QCORE_PLANTED(descriptor_of_other_swizzle, "copied with a swizzle of 128 bytes, and is read"),
    QCORE_PLANTED(descriptors_differ, "threads of the warpgroup call different products"),
    QCORE_PLANTED(descriptor_unknown_bits, "the descriptor has unknown bits"),
    QCORE_PLANTED(one_warp_missing, "deadlock, nobody can run:"),
    QCORE_PLANTED(no_proxy_fence, "store_tensor: byte "),
    QCORE_PLANTED(proxy_fence_before_store, "and no fence_proxy_async of that thread lies between"),
    QCORE_PLANTED(no_meeting_before_store_tensor, "store_tensor: byte "),
    QCORE_PLANTED(staging_reused_early, "is being read by wgmma or store_tensor"),
    QCORE_PLANTED(store_not_waited_for, "exits while its store_tensor was not waited for"),
    QCORE_PLANTED(named_barrier_count, "where others said"),
    QCORE_PLANTED(named_barrier_zero, "expected a barrier 1 .. 15, got 0"),
    QCORE_PLANTED(named_barrier_missing_warp, "sync_named 1: 96 of 128 threads arrived"),
    QCORE_PLANTED(registers_beyond_budget, "registers_increase: "),
    QCORE_PLANTED(registers_one_warp, "not all warps of the warpgroup"),
};
#undef QCORE_PLANTED

// D [64, 32] = A [64, K] B [32, K] transposed, int8, K = chunks * 128. Warps 0 .. 3 multiply, warp
// 4 copies, the others idle.
struct Pipeline {
  static constexpr int kThreads = 256, kN = 32, kStages = 3;
  static constexpr uint32_t kABytes = 64 * 128, kBBytes = kN * 128;
  static constexpr uint32_t kStage = kABytes + kBBytes;  // a multiple of 1024
  static constexpr uint32_t kStaging = kStages * kStage, kStagingBytes = 64 * kN * 4;
  static constexpr uint32_t kFull = kStaging + kStagingBytes, kEmpty = kFull + kStages * 8;
  static constexpr int kSharedBytes = kEmpty + kStages * 8;

  TensorMap a, b, d;  // d: boxes of 64 rows times 32 numbers, in two halves of 16
  int chunks;
  Mistake mistake;

  bool is(Mistake one) const { return mistake == one; }

  void run() const {
    using namespace ptx;
    const int thread = thread_index(), warp = thread / 32;
    if (thread == 0) {
      for (uint32_t s = 0; s < kStages; ++s) {
        barrier_init(kFull + 8 * s, 1);
        barrier_init(kEmpty + 8 * s, is(Mistake::too_few_arrivals) ? 5 : 4);
      }
      if (!is(Mistake::barrier_not_fenced_for_copies)) fence_barrier_init();
    }
    if (!is(Mistake::barrier_without_meeting)) sync_block();
    if (is(Mistake::store_onto_barrier) && thread == 9) store_shared(kFull, 1.f);
    if (warp < 4) {
      registers_increase<256>();
      multiply(thread, warp);
    } else {
      const bool all = !is(Mistake::registers_one_warp);
      if (!is(Mistake::registers_beyond_budget) && (all || warp == 4)) registers_decrease<56>();
      if (warp == 4 && elect_one()) copy();
    }
  }

  void copy() const {
    using namespace ptx;
    prefetch_tensor_map(a);
    for (int i = 0; i < chunks; ++i) {
      const auto s = static_cast<uint32_t>(i % kStages), round = static_cast<uint32_t>(i / kStages);
      const uint32_t parity = (round & 1) ^ (is(Mistake::wrong_parity_of_empty) ? 0 : 1);
      if (!is(Mistake::no_wait_for_empty)) barrier_wait(kEmpty + 8 * s, parity);
      const SharedAddress full = kFull + 8 * s;
      uint32_t to = s * kStage;
      if (is(Mistake::no_expect)) {
        barrier_arrive(full);
      } else {
        const bool last = i + 1 == chunks;
        const uint32_t wrong = is(Mistake::expects_more) && last ? 16u : 0u;
        barrier_arrive_expect(full, (is(Mistake::expects_less) ? kABytes : kStage) + wrong);
      }
      if (is(Mistake::too_many_arrivals)) barrier_arrive(full);
      if (is(Mistake::misaligned_copy)) to += 128;
      const TensorMap nothing{};
      copy_tensor_2d(to, is(Mistake::no_tensor_map) ? nothing : a, i * 128, 0, full);
      copy_tensor_2d(to + kABytes, b, i * 128, 0, full);
    }
    if (is(Mistake::copy_nobody_waits_for)) {
      const auto s = static_cast<uint32_t>(chunks % kStages);
      barrier_wait(kEmpty + 8 * s, (static_cast<uint32_t>(chunks / kStages) & 1) ^ 1);
      barrier_arrive_expect(kFull + 8 * s, kABytes);
      copy_tensor_2d(s * kStage, a, 0, 0, kFull + 8 * s);
    }
  }

  void multiply(int thread, int warp) const {
    using namespace ptx;
    int32_t sums[kN / 2] = {};
    wgmma_own(sums);
    for (int i = 0; i < chunks; ++i) {
      const auto s = static_cast<uint32_t>(i % kStages), round = static_cast<uint32_t>(i / kStages);
      const uint32_t parity = (round & 1) ^ (is(Mistake::wrong_parity_of_full) ? 1 : 0);
      if (!is(Mistake::no_wait_for_full)) barrier_wait(kFull + 8 * s, parity);
      if (is(Mistake::one_warp_missing) && warp == 2) return;
      if (!is(Mistake::no_wgmma_fence)) wgmma_fence();
      uint32_t at = s * kStage;
      if (is(Mistake::descriptor_of_other_stage)) at = (s + 1) % kStages * kStage;
      Swizzle swizzle = Swizzle::bytes128;
      if (is(Mistake::descriptor_of_other_swizzle)) swizzle = Swizzle::bytes64;
      uint64_t of_a = descriptor(swizzle, at, 1024);
      uint64_t of_b = descriptor(swizzle, at + kABytes, 1024);
      if (is(Mistake::descriptors_differ)) of_b += static_cast<uint64_t>(warp == 3);
      if (is(Mistake::descriptor_unknown_bits)) of_b |= uint64_t{1} << 48;
      for (uint32_t k = 0; k < 4; ++k) {
        const uint32_t step = k * 32 + (is(Mistake::descriptor_past_row) && k == 3 ? 16 : 0);
        wgmma<Int8, Int8, kN>(sums, descriptor_advance(of_a, step), descriptor_advance(of_b, step),
                              i > 0 || k > 0);
      }
      if (is(Mistake::not_committed) && i + 1 == chunks) return;
      wgmma_commit();
      if (is(Mistake::sums_changed_before_wait) && thread == 77) sums[3] += 1;
      // One group stays under way; the stage before is free.
      if (is(Mistake::released_before_wait)) {
        release(s);
        wgmma_wait<0>();
        continue;
      }
      wgmma_wait<1>();
      if (is(Mistake::released_one_group_early)) {
        release(s);
      } else if (i > 0) {
        release((s + kStages - 1) % kStages);
      }
    }
    if (is(Mistake::sums_used_before_wait)) wgmma_own(sums);
    wgmma_wait<0>();
    wgmma_own(sums);
    if (!is(Mistake::released_before_wait) && !is(Mistake::released_one_group_early)) {
      release(static_cast<uint32_t>((chunks - 1) % kStages));
    }
    store(thread, warp, sums);
  }

  static void release(uint32_t s) {
    if (ptx::elect_one()) ptx::barrier_arrive(kEmpty + 8 * s);
  }

  void meet(int warp) const {
    if (is(Mistake::named_barrier_missing_warp) && warp == 3) return;
    if (is(Mistake::named_barrier_zero)) ptx::sync_named(0, 128);
    ptx::sync_named(1, is(Mistake::named_barrier_count) && warp == 3 ? 96 : 128);
  }

  // Twice through one staging buffer of half the columns.
  void store(int thread, int warp, const int32_t (&sums)[kN / 2]) const {
    using namespace ptx;
    for (int half = 0; half < 2; ++half) {
      if (half == 1) {
        if (thread == 0 && !is(Mistake::staging_reused_early)) store_tensor_wait_read<0>();
        meet(warp);
      }
      if (is(Mistake::proxy_fence_before_store)) fence_proxy_async();
      for (int i = 0; i < kN / 2; ++i) {
        const fragments::Element e = fragments::wgmma_d_element(thread, i);
        if (e.column / 16 != half) continue;
        const int at = e.row * 64 + e.column % 16 * 4;
        store_shared(kStaging + static_cast<uint32_t>(at), static_cast<float>(sums[i]));
      }
      if (!is(Mistake::no_proxy_fence) && !is(Mistake::proxy_fence_before_store)) {
        fence_proxy_async();
      }
      if (!is(Mistake::no_meeting_before_store_tensor)) meet(warp);
      if (thread == 0) {
        store_tensor_2d(d, half * 16, 0, kStaging);
        store_tensor_commit();
      }
    }
    if (thread == 0 && !is(Mistake::store_not_waited_for)) store_tensor_wait<0>();
  }
};

}  // namespace qcore::planted
