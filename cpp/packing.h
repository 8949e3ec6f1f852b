// What the packers of all layouts share: the first code that is too large, found by several
// threads.
#pragma once

#include <atomic>
#include <limits>

#include "qcore/layout.h"

namespace qcore {

// The smallest index n * K + k of a bad code.
class FirstBadCode {
 public:
  void report(int64_t index) {
    int64_t seen = first_.load(std::memory_order_relaxed);
    while (index < seen && !first_.compare_exchange_weak(seen, index, std::memory_order_relaxed)) {
    }
  }
  Status status(const IntGroupView& weight) const;

 private:
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> first_{kNone};
};

}  // namespace qcore
