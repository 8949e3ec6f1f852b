// Stacks of fibers, kept and used again by later launches.
#pragma once

#include <cstddef>
#include <vector>

namespace qcore::simt {

class Stacks {
 public:
  static constexpr size_t kBytes = 64 * 1024;

  Stacks() = default;
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;

  // Where the stack of fiber `index` begins; it grows downwards, towards a page that faults.
  void* top(size_t index);

 private:
  std::vector<void*> chunks_;
};

}  // namespace qcore::simt
