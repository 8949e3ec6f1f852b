// The regions of global memory that a kernel may touch, and who wrote what.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>
#include <vector>

#include "simt/simt.h"

namespace qcore::simt {

struct Region {
  Region(std::string name, const void* begin, size_t bytes, Access access);
  ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  std::string name;
  uintptr_t begin;
  size_t bytes;
  Access access;
  const unsigned char* guard = nullptr;  // kGuardBytes before and after, if they are ours
  // Who wrote each byte: 0 nobody, kBeforeLaunch, or 1 + the thread's index in the grid. Empty
  // where reads need no check and any thread may write.
  std::vector<uint32_t> writers;
};

inline constexpr uint32_t kBeforeLaunch = 0xffffffffu;
inline constexpr size_t kGuardBytes = 256;

// Each throws Fault unless the running thread may do this.
void check_global_load(const void* from, size_t size, const char* name,
                       const std::source_location& where);
void check_global_store(void* to, size_t size, const char* name, const std::source_location& where);
// Of bytes that may be loaded.
bool written_by_this_launch(const void* from, size_t size);
void check_global_alignment(const void* at, size_t size, const char* name,
                            const std::source_location& where);

// At the start and the end of a launch.
void forget_writers_of_last_launch();
void check_guards(const char* kernel);

}  // namespace qcore::simt
