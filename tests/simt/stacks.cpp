#include "simt/stacks.h"

#include <sys/mman.h>
#include <unistd.h>

#include <new>

namespace qcore::simt {
namespace {

constexpr size_t kChunk = 64;  // stacks mapped at once

size_t page() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}
// A guard page and a stack.
size_t stride() {
  return page() + Stacks::kBytes;
}

}  // namespace

Stacks::~Stacks() {
  for (void* const chunk : chunks_) munmap(chunk, kChunk * stride());
}

void* Stacks::top(size_t index) {
  while (chunks_.size() <= index / kChunk) {
    void* const chunk = mmap(nullptr, kChunk * stride(), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (chunk == MAP_FAILED) throw std::bad_alloc();
    chunks_.push_back(chunk);
    for (size_t i = 0; i < kChunk; ++i) {
      if (mprotect(static_cast<char*>(chunk) + i * stride(), page(), PROT_NONE) != 0) {
        throw std::bad_alloc();
      }
    }
  }
  // Threads of a kernel stop at the same depth. Different beginnings keep their hot lines from
  // falling into the same few sets of the cache.
  const size_t shift = index % 16 * 256;
  return static_cast<char*>(chunks_[index / kChunk]) + (index % kChunk + 1) * stride() - shift;
}

}  // namespace qcore::simt
