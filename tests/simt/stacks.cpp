#include "simt/stacks.h"

#include <sys/mman.h>

#include <new>

namespace qcore::simt {
namespace {

constexpr size_t kGuard = 4096, kChunk = 64;  // stacks mapped at once

}  // namespace

Stacks::~Stacks() {
  for (void* const chunk : chunks_) munmap(chunk, kChunk * (kGuard + kBytes));
}

void* Stacks::top(size_t index) {
  while (chunks_.size() <= index / kChunk) {
    void* const chunk = mmap(nullptr, kChunk * (kGuard + kBytes), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (chunk == MAP_FAILED) throw std::bad_alloc();
    chunks_.push_back(chunk);
    for (size_t i = 0; i < kChunk; ++i) {
      if (mprotect(static_cast<char*>(chunk) + i * (kGuard + kBytes), kGuard, PROT_NONE) != 0) {
        throw std::bad_alloc();
      }
    }
  }
  // Threads of a kernel stop at the same depth. Different beginnings keep their hot lines from
  // falling into the same few sets of the cache.
  const size_t shift = index % 16 * 256;
  return static_cast<char*>(chunks_[index / kChunk]) + (index % kChunk + 1) * (kGuard + kBytes) -
         shift;
}

}  // namespace qcore::simt
