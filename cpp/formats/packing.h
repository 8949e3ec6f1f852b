// What the packers of all layouts share: codes and zero points that are too large.
#pragma once

#include <atomic>
#include <limits>

#include "qcore/layout.h"
#include "qcore/status.h"

namespace qcore {

// An error: `value` at `index` of a matrix with rows of `width` does not fit into `bits`.
Status too_large(const char* argument, const char* column, int value, int64_t index, int64_t width,
                 int bits);

// The smallest index n * K + k of a bad code, found by several threads.
class FirstBadCode {
 public:
  void report(int64_t index) {
    int64_t seen = first_.load(std::memory_order_relaxed);
    while (index < seen && !first_.compare_exchange_weak(seen, index, std::memory_order_relaxed)) {
    }
  }
  Status status(const ScaledView& weight) const;

 private:
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> first_{kNone};
};

}  // namespace qcore
