// The part of SharedMemory that partial order and the asynchronous proxy need.
#include <algorithm>
#include <cstring>

#include "simt/shared_memory.h"
#include "simt/thread.h"

namespace qcore::simt {

// ---- Who knows of what

void SharedMemory::use_clocks() {
  if (partial()) return;
  clocks_.assign(threads(), Clock(threads() + kMostBarriers, 0));
  exact_reads_.resize(lines_.size());
  reading_.assign(lines_.size(), 0);
  swizzles_.assign(lines_.size(), 0);
  last_known_ = {kNobody, kNobody, 0, 0};
  async_reads_.assign(lines_.size() * warp_synced_.size(), 0);
}

// Events before the result are known.
uint32_t SharedMemory::known(Accessor thread, size_t column) const {
  uint32_t time = std::max(block_synced_, clocks_[thread][column]);
  if (column < threads() && column / 32 == thread / 32u) {
    time = std::max(time, warp_synced_[thread / 32u]);
  }
  return time;
}

bool SharedMemory::ordered_by_clocks(Accessor who, uint32_t when, Accessor now_acts) const {
  const auto each = [](Accessor a, const auto& good) {
    if (a < kFirstWarp) return good(a);
    for (int lane = 0; lane < 32; ++lane) {
      if (!good(static_cast<Accessor>(warp_of(a) * 32 + lane))) return false;
    }
    return true;
  };
  return each(now_acts, [&](Accessor thread) {
    return each(who, [&](Accessor other) {
      return other == thread || when < known(thread, column(other));
    });
  });
}

void SharedMemory::release(Accessor thread, Clock& clock) {
  clock.resize(threads() + kMostBarriers, 0);
  for (size_t i = 0; i < clock.size(); ++i) clock[i] = std::max(clock[i], known(thread, i));
  clock[thread] = ++now_;
}

void SharedMemory::acquire(Accessor thread, const Clock& clock) {
  Clock& mine = clocks_[thread];
  for (size_t i = 0; i < clock.size(); ++i) mine[i] = std::max(mine[i], clock[i]);
}

void SharedMemory::share_clocks(int warp) {
  Clock* const lanes = &clocks_[static_cast<size_t>(warp) * 32];
  for (int lane = 1; lane < 32; ++lane) {
    for (size_t i = 0; i < lanes->size(); ++i) lanes[0][i] = std::max(lanes[0][i], lanes[lane][i]);
  }
  for (int lane = 1; lane < 32; ++lane) lanes[lane] = lanes[0];
}

void SharedMemory::release_copies(Accessor barrier, Clock& clock) {
  clock.resize(threads() + kMostBarriers, 0);
  clock[column(barrier)] = ++now_;
}

void SharedMemory::check_known(Accessor who, uint32_t when, Accessor thread, const Call& call,
                               const char* did) const {
  if (ordered(who, when, thread)) return;
  fault(std::string(call.name) + ": " + describe(who) + " " + did +
            ", and no meeting point lies between",
        call.where);
}

Accessor SharedMemory::make_barrier(uint32_t at, Accessor thread, const Call& call) {
  use_clocks();
  const uint64_t zero = 0;
  write(at, 8, thread, &zero, call);
  Past* const past = split(at);
  for (int i = 0; i < 8; ++i) past[i].state = kBarrier;
  if (barriers_.size() == kMostBarriers) fault("more barriers than the emulator has", call.where);
  barriers_.push_back(at);
  return static_cast<Accessor>(kFirstBarrier + barriers_.size() - 1);
}

// ---- Ordinary reads, exactly: without a common meeting point, two readers do not stand for all

void SharedMemory::note_exact_read(uint32_t at, uint32_t size, Accessor who) {
  std::unique_ptr<uint32_t[]>& reads = exact_reads_[at / kLine];
  if (!reads) reads = std::make_unique<uint32_t[]>(4 * threads());
  const size_t first = who < kFirstWarp ? who : static_cast<size_t>(warp_of(who)) * 32;
  const size_t count = who < kFirstWarp ? 1 : 32;
  for (uint32_t word = at % kLine / 4; word < (at % kLine + size + 3) / 4; ++word) {
    std::fill_n(&reads[word * threads() + first], count, now_);
  }
}

void SharedMemory::check_exact_readers(uint32_t at, uint32_t size, Accessor who, const Call& call) {
  const size_t line = at / kLine, warps = warp_synced_.size();
  if (std::unique_ptr<uint32_t[]>& reads = exact_reads_[line]) {
    for (uint32_t word = at % kLine / 4; word < (at % kLine + size + 3) / 4; ++word) {
      for (size_t thread = 0; thread < threads(); ++thread) {
        uint32_t& when = reads[word * threads() + thread];
        const Accessor reader = static_cast<Accessor>(thread);
        if (when != 0 && !ordered(reader, when, who)) {
          race(call, at, "was read by", reader, ", and no meeting point lies between");
        }
        when = 0;
      }
    }
  }
  if (reading_[line] != 0) {
    fault(std::string(call.name) + ": byte " + std::to_string(at) +
              " of shared memory is being read by wgmma or store_tensor, which was not waited for",
          call.where);
  }
  for (size_t warp = 0; warp < warps; ++warp) {
    uint32_t& when = async_reads_[line * warps + warp];
    if (when == 0) continue;
    // Its lanes were together when they waited: what one of them knows counts.
    bool good = false;
    for (size_t lane = 0; lane < 32 && !good; ++lane) {
      good = ordered(static_cast<Accessor>(warp * 32 + lane), when, who);
    }
    if (!good) {
      fault(std::string(call.name) + ": byte " + std::to_string(at) +
                " of shared memory was read by wgmma or store_tensor of warp " +
                std::to_string(warp) + ", and no meeting point lies between",
            call.where);
    }
    when = 0;
  }
}

// ---- The asynchronous proxy

void SharedMemory::fence_proxy(Accessor thread) {
  fenced_[thread].push_back(++now_);
}

// What threads stored must have been fenced by them, before the meeting point.
void SharedMemory::check_fenced(const Past& past, Accessor who, uint32_t byte,
                                const Call& call) const {
  if (past.writer >= threads()) return;
  const std::vector<uint32_t>& fences = fenced_[past.writer];
  const auto fence = std::upper_bound(fences.begin(), fences.end(), past.written);
  if (fence == fences.end() || !ordered(past.writer, *fence, who)) {
    race(call, byte, "was stored by", past.writer,
         ", and no fence_proxy_async of that thread lies between");
  }
}

void SharedMemory::take_off_copy(uint32_t at, Accessor thread, Accessor barrier, uint32_t swizzle,
                                 const Call& call) {
  check_address(at, kLine, call);
  Past& line = lines_[at / kLine];
  const bool was_split = line.state & kSplit;
  const Past before = was_split ? single_[at] : line;
  take_off(at, thread, call);
  if (before.state & kWritten) check_fenced(before, thread, at, call);
  line.writer = barrier;
  swizzles_[at / kLine] = static_cast<uint8_t>(swizzle);
}

void SharedMemory::check_swizzle(uint32_t at, uint32_t swizzle, const Call& call) const {
  const Past& line = lines_[at / kLine];
  const uint32_t copied = swizzles_[at / kLine];
  if (!(line.state & kSplit) && is_copy(line.writer) && copied != swizzle) {
    fault(std::string(call.name) + ": byte " + std::to_string(at) +
              " of shared memory was copied with a swizzle of " + std::to_string(copied) +
              " bytes, and is read with one of " + std::to_string(swizzle),
          call.where);
  }
}

void SharedMemory::begin_read(uint32_t at, Accessor who, void* out, const Call& call) {
  check_address(at, kLine, call);
  use_clocks();
  const Past& line = lines_[at / kLine];
  const bool is_split = line.state & kSplit;
  for (uint32_t i = 0; i < (is_split ? kLine : 1); ++i) {
    const Past& past = is_split ? single_[at + i] : line;
    if (past.state != kWritten) unusable(past, at + i, call);
    const Known& last = last_known_;
    if (past.writer == last.writer && past.written == last.written && who == last.who &&
        now_ == last.now) {
      continue;
    }
    if (!ordered(past.writer, past.written, who)) {
      race(call, at + i, "was written by", past.writer, ", and no meeting point lies between");
    }
    check_fenced(past, who, at + i, call);
    last_known_ = {past.writer, who, past.written, now_};
  }
  ++reading_[at / kLine];
  if (out) std::memcpy(out, &data_[at], kLine);
}

void SharedMemory::end_read(uint32_t at, Accessor who) {
  const size_t line = at / kLine;
  --reading_[line];
  async_reads_[line * warp_synced_.size() + static_cast<size_t>(warp_of(who))] = now_;
}

}  // namespace qcore::simt
