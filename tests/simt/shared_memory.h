// The shared memory of one block. Beside the bytes it keeps who last wrote and read them and when,
// and finds accesses that no meeting point orders.
//
// Time is a counter that every meeting point of the block or of one of its warps advances. An
// access at time s by thread u is ordered before one by thread t now, if u is t, or a barrier of
// the block happened after s, or u and t are lanes of one warp and that warp synchronised after s.
//
// Barriers that only some threads meet at (mbarrier, named ones) order more: from the first one on
// every thread has a clock, which says up to when it knows of the events of every other thread, and
// of the copies that each barrier waits for. Waiting at a barrier brings it the clocks of those who
// arrived. The asynchronous proxy (copy_tensor, wgmma) reads lines that it announces beforehand.
#pragma once

#include <cstdint>
#include <memory>
#include <source_location>
#include <string>
#include <vector>

namespace qcore::simt {

// A call of the kernel, for messages.
struct Call {
  const char* name;
  std::source_location where;
  int row_of_lane = -1;  // ldmatrix: whose address it is
};

// Who accesses shared memory: a thread by its index, or all lanes of a warp together.
using Accessor = uint16_t;
// Or the copies that the barrier of a number waits for.
inline constexpr Accessor kNobody = 0xffff, kFirstWarp = 0x4000, kFirstBarrier = 0x2000;

constexpr Accessor whole_warp(int warp) {
  return static_cast<Accessor>(kFirstWarp + warp);
}
constexpr bool is_copy(Accessor who) {
  return who >= kFirstBarrier && who < kFirstWarp;
}
constexpr int warp_of(Accessor who) {
  return who >= kFirstWarp ? who - kFirstWarp : who / 32;
}

// Up to when the events of each thread are known, and then of each barrier's copies.
using Clock = std::vector<uint32_t>;

class SharedMemory {
 public:
  // Forgets everything: a new block starts.
  void reset(int bytes, int warps);

  // Faults unless [at, at + size) is aligned and inside.
  void check_address(uint32_t at, uint32_t size, const Call& call) const {
    if (at % size != 0 || at > bytes_ || size > bytes_ - at) [[unlikely]] {
      bad_address(at, size, call);
    }
  }
  // size is 1, 2, 4, 8 or 16.
  void read(uint32_t at, uint32_t size, Accessor who, void* out, const Call& call);
  void write(uint32_t at, uint32_t size, Accessor who, const void* from, const Call& call);

  // 16 bytes are on their way from now until land().
  void take_off(uint32_t at, Accessor who, const Call& call);
  void land(uint32_t at, Accessor who, const void* from);

  void sync_warp(int warp) {
    warp_synced_[static_cast<size_t>(warp)] = ++now_;
    if (partial()) [[unlikely]]
      share_clocks(warp);
  }
  void sync_block();

  // ---- Partial order (shared_memory_async.cpp)

  static constexpr uint32_t kLine = 16;

  // Thread's 8 bytes become a barrier, whose copies are an accessor of their own.
  Accessor make_barrier(uint32_t at, Accessor thread, const Call& call);
  // What `thread` has done and knows goes into the clock; and comes out of it.
  void release(Accessor thread, Clock& clock);
  void acquire(Accessor thread, const Clock& clock);
  // Clocks begin with the first barrier.
  void use_clocks();
  // What lands from now on with this barrier is known to those who acquire the clock.
  void release_copies(Accessor barrier, Clock& clock);
  // Faults unless `thread` knows what `who` did at `when`.
  void check_known(Accessor who, uint32_t when, Accessor thread, const Call& call,
                   const char* did) const;
  uint32_t now() const { return now_; }
  void fence_proxy(Accessor thread);

  // As take_off, by the copy engine on behalf of a thread.
  // `swizzle`: how its rows are permuted, in bytes; whoever reads them must say the same.
  void take_off_copy(uint32_t at, Accessor thread, Accessor barrier, uint32_t swizzle,
                     const Call& call);
  void check_swizzle(uint32_t at, uint32_t swizzle, const Call& call) const;
  // The asynchronous proxy reads 16 bytes on behalf of a thread or a whole warp, from now until
  // end_read. `out` may be null.
  void begin_read(uint32_t at, Accessor who, void* out, const Call& call);
  void end_read(uint32_t at, Accessor who);

 private:
  enum State : uint16_t { kWritten = 1, kInFlight = 2, kSplit = 4, kBarrier = 8 };
  // The past of one byte. Two readers suffice: `other` is of another warp than `reader` if any
  // reader since the last write is.
  struct Past {
    uint32_t written, read;  // when
    Accessor writer, reader, other;
    uint16_t state;
  };

  bool ordered(Accessor who, uint32_t when, Accessor now_acts) const {
    return who == now_acts || when < block_synced_ ||
           (warp_of(who) == warp_of(now_acts) &&
            when < warp_synced_[static_cast<size_t>(warp_of(who))]) ||
           (partial() && ordered_by_clocks(who, when, now_acts));
  }
  bool partial() const { return !clocks_.empty(); }
  uint32_t known(Accessor thread, size_t column) const;
  bool ordered_by_clocks(Accessor who, uint32_t when, Accessor now_acts) const;
  void share_clocks(int warp);
  void note_exact_read(uint32_t at, uint32_t size, Accessor who);
  void check_exact_readers(uint32_t at, uint32_t size, Accessor who, const Call& call);
  void check_fenced(const Past& past, Accessor who, uint32_t byte, const Call& call) const;
  size_t threads() const { return warp_synced_.size() * 32; }
  size_t column(Accessor who) const {
    return is_copy(who) ? threads() + who - kFirstBarrier : size_t{who};
  }
  std::string describe(Accessor who) const;
  void check_write(const Past& past, Accessor who, uint32_t byte, const Call& call) const;
  void note_read(Past& past, Accessor who, uint32_t byte, const Call& call) const;
  Past* split(uint32_t at);

  [[noreturn]] void bad_address(uint32_t at, uint32_t size, const Call& call) const;
  [[noreturn]] void race(const Call& call, uint32_t byte, const char* did, Accessor other,
                         const char* missing) const;
  [[noreturn]] void unusable(const Past& past, uint32_t byte, const Call& call) const;

  uint32_t bytes_ = 0;
  uint32_t now_ = 1, block_synced_ = 1;
  std::vector<uint32_t> warp_synced_;
  std::vector<unsigned char> data_;
  // One past for each 16 bytes, as long as all of them share it; otherwise kSplit, and the pasts of
  // the single bytes count.
  std::vector<Past> lines_;
  std::unique_ptr<Past[]> single_;

  static constexpr size_t kMostBarriers = 64;
  std::vector<Clock> clocks_;                  // of each thread; empty until the first barrier
  std::vector<uint32_t> barriers_;             // where they are
  std::vector<std::vector<uint32_t>> fenced_;  // when each thread fenced its stores
  // With clocks, when each thread read each 4 bytes of a line since they were written.
  std::vector<std::unique_ptr<uint32_t[]>> exact_reads_;
  // Reads of the asynchronous proxy under way on a line, and when each warp's last one ended.
  std::vector<uint16_t> reading_;
  std::vector<uint32_t> async_reads_;
  std::vector<uint8_t> swizzles_;  // of the copy that wrote the line
  // What begin_read found in order last: neighbours mostly have the same past.
  struct Known {
    Accessor writer, who;
    uint32_t written, now;
  } last_known_{};
};

// The asynchronous copies of one thread, oldest first.
class CopyQueue {
 public:
  struct Copy {
    uint32_t to;
    unsigned char bytes[16];
  };
  void clear();
  void push(const Copy& copy) { copies_.push_back(copy); }
  void commit() { group_ends_.push_back(copies_.size()); }
  // Calls land(copy) for the copies of all groups but the newest `pending`.
  template <class F>
  void wait(size_t pending, F land) {
    if (group_ends_.size() - first_group_ <= pending) return;
    first_group_ = group_ends_.size() - pending;
    for (const size_t end = group_ends_[first_group_ - 1]; first_copy_ < end; ++first_copy_) {
      land(copies_[first_copy_]);
    }
    if (first_copy_ >= 64) compact();
  }
  // The oldest copy under way, or null.
  const Copy* oldest() const {
    return first_copy_ < copies_.size() ? &copies_[first_copy_] : nullptr;
  }

 private:
  void compact();

  std::vector<Copy> copies_;
  std::vector<size_t> group_ends_;
  size_t first_copy_ = 0, first_group_ = 0;
};

}  // namespace qcore::simt
