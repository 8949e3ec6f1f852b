#include "simt/global_memory.h"

#include <algorithm>

#include "simt/thread.h"

namespace qcore::simt {
namespace {

constexpr unsigned char kPoison = 0xff, kGuard = 0xc5;

// Sorted by address.
std::vector<Region*>& regions() {
  static std::vector<Region*> list;
  return list;
}
Region* last_found = nullptr;

bool covers(const Region& region, uintptr_t at, size_t size) {
  return at >= region.begin && at - region.begin <= region.bytes &&
         size <= region.bytes - (at - region.begin);
}

auto first_after(uintptr_t at) {
  return std::upper_bound(regions().begin(), regions().end(), at,
                          [](uintptr_t a, const Region* region) { return a < region->begin; });
}

// "4 bytes at d + 16", also for addresses near a region.
std::string describe(uintptr_t at, size_t size) {
  std::string text = std::to_string(size) + " bytes at ";
  const auto after = first_after(at);
  constexpr size_t kNear = 4096;
  if (after != regions().begin()) {
    const Region& region = **(after - 1);
    if (at - region.begin <= region.bytes + kNear) {
      return text + region.name + " + " + std::to_string(at - region.begin) + " of " +
             std::to_string(region.bytes);
    }
  }
  if (after != regions().end() && (*after)->begin - at <= kNear) {
    return text + (*after)->name + " - " + std::to_string((*after)->begin - at);
  }
  return text + "an address in no known buffer";
}

Region& find(uintptr_t at, size_t size, const char* name, const std::source_location& where) {
  if (last_found != nullptr && covers(*last_found, at, size)) [[likely]] {
    return *last_found;
  }
  const auto after = first_after(at);
  if (after == regions().begin() || !covers(**(after - 1), at, size)) {
    fault(std::string(name) + ": " + describe(at, size) + ", outside of global memory", where);
  }
  return *(last_found = *(after - 1));
}

std::string describe_writer(uint32_t writer) {
  const uint32_t threads = static_cast<uint32_t>(current_thread->block->threads.size());
  return "block " + std::to_string((writer - 1) / threads) + ", thread " +
         std::to_string((writer - 1) % threads);
}

}  // namespace

Region::Region(std::string name_, const void* begin_, size_t bytes_, Access access_)
    : name(std::move(name_)),
      begin(reinterpret_cast<uintptr_t>(begin_)),
      bytes(bytes_),
      access(access_) {
  const auto at = first_after(begin);
  const bool overlaps =
      bytes > 0 && ((at != regions().begin() && (*(at - 1))->begin + (*(at - 1))->bytes > begin) ||
                    (at != regions().end() && begin + bytes > (*at)->begin));
  if (overlaps) throw std::invalid_argument(name + " overlaps another region of global memory");
  regions().insert(at, this);
}

Region::~Region() {
  std::erase(regions(), this);
  last_found = nullptr;
}

View::View(std::string name, const void* data, size_t bytes, Access access)
    : region_(std::make_unique<Region>(std::move(name), data, bytes, access)) {
  if (access == Access::write_once) region_->writers.assign(bytes, kBeforeLaunch);
}
View::~View() = default;

Buffer::Buffer(std::string name, size_t bytes, Access access)
    : storage_(bytes + 3 * kGuardBytes, kGuard) {
  const auto address = reinterpret_cast<uintptr_t>(storage_.data());
  begin_ = storage_.data() + (2 * kGuardBytes - address % kGuardBytes);
  std::fill(begin_, begin_ + bytes, kPoison);
  region_ = std::make_unique<Region>(std::move(name), begin_, bytes, access);
  region_->guard = begin_ - kGuardBytes;
  region_->writers.assign(bytes, 0);
}
Buffer::~Buffer() = default;

size_t Buffer::bytes() const {
  return region_->bytes;
}

void Buffer::fill(uint8_t byte) {
  std::fill(begin_, begin_ + bytes(), byte);
  mark_written();
}

void Buffer::mark_written() {
  if (region_->access == Access::write_once) {
    region_->writers.assign(bytes(), kBeforeLaunch);
  } else {
    region_->writers.clear();
  }
}

void check_global_alignment(const void* at, size_t size, const char* name,
                            const std::source_location& where) {
  const auto address = reinterpret_cast<uintptr_t>(at);
  if (address % size != 0) [[unlikely]] {
    fault(std::string(name) + ": " + describe(address, size) + " are misaligned", where);
  }
}

void check_global_load(const void* from, size_t size, const char* name,
                       const std::source_location& where) {
  const auto address = reinterpret_cast<uintptr_t>(from);
  const Region& region = find(address, size, name, where);
  if (region.writers.empty()) return;
  const auto first = region.writers.begin() + static_cast<ptrdiff_t>(address - region.begin);
  const auto bad = std::find(first, first + static_cast<ptrdiff_t>(size), 0u);
  if (bad != first + static_cast<ptrdiff_t>(size)) {
    fault(std::string(name) + ": " + describe(address, size) + ", of which byte " +
              std::to_string(bad - region.writers.begin()) + " is uninitialised, nobody wrote it",
          where);
  }
}

bool written_by_this_launch(const void* from, size_t size) {
  const auto address = reinterpret_cast<uintptr_t>(from);
  const Region& region = **(first_after(address) - 1);
  if (region.writers.empty()) return false;
  const auto first = region.writers.begin() + static_cast<ptrdiff_t>(address - region.begin);
  return std::any_of(first, first + static_cast<ptrdiff_t>(size),
                     [](uint32_t writer) { return writer != 0 && writer != kBeforeLaunch; });
}

void check_global_store(void* to, size_t size, const char* name,
                        const std::source_location& where) {
  const auto address = reinterpret_cast<uintptr_t>(to);
  Region& region = find(address, size, name, where);
  if (region.access == Access::read) {
    fault(std::string(name) + ": " + describe(address, size) + ", which is read-only", where);
  }
  if (region.writers.empty()) return;
  const Thread& thread = *current_thread;
  const uint32_t me = 1 +
                      static_cast<uint32_t>(thread.block->index) *
                          static_cast<uint32_t>(thread.block->threads.size()) +
                      static_cast<uint32_t>(thread.index);
  const auto first = region.writers.begin() + static_cast<ptrdiff_t>(address - region.begin);
  for (auto writer = first; writer != first + static_cast<ptrdiff_t>(size); ++writer) {
    if (region.access == Access::write_once && *writer != 0 && *writer != kBeforeLaunch &&
        *writer != me) {
      fault(std::string(name) + ": " + describe(address, size) + ", which " +
                describe_writer(*writer) + " stored before: one thread may store each byte once",
            where);
    }
    *writer = me;
  }
}

void forget_writers_of_last_launch() {
  for (Region* region : regions()) {
    for (uint32_t& writer : region->writers) {
      if (writer != 0) writer = kBeforeLaunch;
    }
  }
}

void check_guards(const char* kernel) {
  for (const Region* region : regions()) {
    if (region->guard == nullptr) continue;
    for (size_t i = 0; i < kGuardBytes; ++i) {
      if (region->guard[i] != kGuard || region->guard[kGuardBytes + region->bytes + i] != kGuard) {
        throw Fault(std::string(kernel) + ": the guard zone of " + region->name +
                    " was overwritten by an access outside of ptx.h");
      }
    }
  }
}

}  // namespace qcore::simt
