#include "simt/shared_memory.h"

#include <algorithm>
#include <cstring>

#include "simt/thread.h"

namespace qcore::simt {
namespace {

std::string describe(const Call& call) {
  std::string text = call.name;
  if (call.row_of_lane >= 0) text += ", row of lane " + std::to_string(call.row_of_lane);
  return text;
}

}  // namespace

std::string SharedMemory::describe(Accessor who) const {
  if (who >= kFirstWarp) return "warp " + std::to_string(warp_of(who)) + " in ldmatrix";
  if (is_copy(who)) {
    return "copy_tensor for the barrier at shared offset " +
           std::to_string(barriers_[who - size_t{kFirstBarrier}]);
  }
  return "thread " + std::to_string(who) + " (warp " + std::to_string(who / 32) + ", lane " +
         std::to_string(who % 32) + ")";
}

void SharedMemory::reset(int bytes, int warps) {
  const size_t size = static_cast<size_t>(bytes);
  if (data_.size() != size) single_ = std::make_unique_for_overwrite<Past[]>(size + kLine);
  bytes_ = static_cast<uint32_t>(bytes);
  now_ = block_synced_ = 1;
  warp_synced_.assign(static_cast<size_t>(warps), 1);
  data_.assign(size, 0xff);
  lines_.assign((size + kLine - 1) / kLine, Past{0, 0, kNobody, kNobody, kNobody, 0});
  clocks_.clear();
  barriers_.clear();
  fenced_.assign(threads(), {});
  exact_reads_.clear();
  reading_.clear();
  async_reads_.clear();
}

void SharedMemory::sync_block() {
  block_synced_ = ++now_;
  std::fill(warp_synced_.begin(), warp_synced_.end(), now_);
}

void SharedMemory::bad_address(uint32_t at, uint32_t size, const Call& call) const {
  const std::string access = simt::describe(call) + ": " + std::to_string(size) +
                             " bytes at shared offset " + std::to_string(at);
  fault(at % size != 0 ? access + " are misaligned"
                       : access + " are outside of the block's " + std::to_string(bytes_) +
                             " bytes of shared memory",
        call.where);
}

void SharedMemory::race(const Call& call, uint32_t byte, const char* did, Accessor other,
                        const char* missing) const {
  fault(simt::describe(call) + ": byte " + std::to_string(byte) + " of shared memory " + did + " " +
            describe(other) + missing,
        call.where);
}

void SharedMemory::unusable(const Past& past, uint32_t byte, const Call& call) const {
  if (past.state & kInFlight) {
    race(call, byte, is_copy(past.writer) ? "is in flight:" : "is in flight: copy_async_16 of",
         past.writer, " was not waited for");
  }
  fault(simt::describe(call) + ": byte " + std::to_string(byte) +
            (past.state & kBarrier ? " of shared memory belongs to a barrier"
                                   : " of shared memory is uninitialised, nobody wrote it"),
        call.where);
}

inline void SharedMemory::note_read(Past& past, Accessor who, uint32_t byte,
                                    const Call& call) const {
  if (past.state != kWritten) [[unlikely]]
    unusable(past, byte, call);
  if (!ordered(past.writer, past.written, who)) [[unlikely]] {
    race(call, byte, "was written by", past.writer, ", and no meeting point lies between");
  }
  if (partial()) return;  // note_exact_read
  // Earlier readers are forgotten once all of them are ordered before this one.
  const int warp = warp_of(who);
  const bool one_warp =
      warp_of(past.reader) == warp && (past.other == kNobody || warp_of(past.other) == warp);
  if (past.reader == kNobody || past.read < block_synced_ ||
      (one_warp && past.read < warp_synced_[static_cast<size_t>(warp)])) {
    past.other = kNobody;
  } else if (past.reader != who && (past.other == kNobody || warp_of(past.other) == warp)) {
    past.other = past.reader;
  }
  past.reader = who;
  past.read = now_;
}

inline void SharedMemory::check_write(const Past& past, Accessor who, uint32_t byte,
                                      const Call& call) const {
  if (past.state & (kInFlight | kBarrier)) [[unlikely]]
    unusable(past, byte, call);
  if (past.writer != kNobody && !ordered(past.writer, past.written, who)) [[unlikely]] {
    race(call, byte, "was written by", past.writer, ", and no meeting point lies between");
  }
  if (past.reader == kNobody) return;
  for (const Accessor reader : {past.reader, past.other}) {
    if (reader != kNobody && !ordered(reader, past.read, who)) [[unlikely]] {
      race(call, byte, "was read by", reader, ", and no meeting point lies between");
    }
  }
}

SharedMemory::Past* SharedMemory::split(uint32_t at) {
  Past& line = lines_[at / kLine];
  Past* const first = &single_[at / kLine * kLine];
  if (!(line.state & kSplit)) {
    std::fill(first, first + kLine, line);
    line.state = kSplit;
  }
  return first + at % kLine;
}

void SharedMemory::read(uint32_t at, uint32_t size, Accessor who, void* out, const Call& call) {
  check_address(at, size, call);
  Past& line = lines_[at / kLine];
  if (size == kLine && !(line.state & kSplit)) {
    note_read(line, who, at, call);
  } else {
    Past* const past = split(at);
    for (uint32_t i = 0; i < size; ++i) note_read(past[i], who, at + i, call);
  }
  if (partial()) [[unlikely]]
    note_exact_read(at, size, who);
  std::memcpy(out, &data_[at], size);
}

void SharedMemory::write(uint32_t at, uint32_t size, Accessor who, const void* from,
                         const Call& call) {
  check_address(at, size, call);
  if (partial()) [[unlikely]]
    check_exact_readers(at, size, who, call);
  const Past written{now_, 0, who, kNobody, kNobody, kWritten};
  Past& line = lines_[at / kLine];
  if (size == kLine && !(line.state & kSplit)) {
    check_write(line, who, at, call);
    line = written;
  } else {
    Past* const past = split(at);
    for (uint32_t i = 0; i < size; ++i) check_write(past[i], who, at + i, call);
    if (size == kLine) {
      line = written;
    } else {
      std::fill(past, past + size, written);
    }
  }
  std::memcpy(&data_[at], from, size);
}

void SharedMemory::take_off(uint32_t at, Accessor who, const Call& call) {
  check_address(at, kLine, call);
  if (partial()) [[unlikely]]
    check_exact_readers(at, kLine, who, call);
  Past& line = lines_[at / kLine];
  if (line.state & kSplit) {
    const Past* const past = split(at);
    for (uint32_t i = 0; i < kLine; ++i) check_write(past[i], who, at + i, call);
  } else {
    check_write(line, who, at, call);
  }
  line = Past{now_, 0, who, kNobody, kNobody, kInFlight};
}

void SharedMemory::land(uint32_t at, Accessor who, const void* from) {
  lines_[at / kLine] = Past{now_, 0, who, kNobody, kNobody, kWritten};
  std::memcpy(&data_[at], from, kLine);
}

void CopyQueue::clear() {
  copies_.clear();
  group_ends_.clear();
  first_copy_ = first_group_ = 0;
}

void CopyQueue::compact() {
  copies_.erase(copies_.begin(), copies_.begin() + static_cast<ptrdiff_t>(first_copy_));
  group_ends_.erase(group_ends_.begin(),
                    group_ends_.begin() + static_cast<ptrdiff_t>(first_group_));
  for (size_t& end : group_ends_) end -= first_copy_;
  first_copy_ = first_group_ = 0;
}

}  // namespace qcore::simt
