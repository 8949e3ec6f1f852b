// How the CPU rows of all gemms share out their work. The rows of x that meet the same weight,
// those of one expert or all of a dense problem, are cut into blocks; a pass is as many blocks as
// may have a copy of their x in memory at once, whatever their experts. Threads take steps of
// blocks, a step being a range of columns of y (or, when x is copied, of x), in one parallel loop
// over the pass.
//
// Included before a target region: code here is compiled for any machine.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "numerics/float_mode.h"
#include "qcore/executor.h"

namespace qcore {

// Consecutive rows of x and y with the same weight.
struct RowBlock {
  int64_t expert, first, rows;
  int64_t copy;  // where the copy of its x begins
};

// What is to be done for a block: so many steps, and what each costs, in units of the caller's.
struct Work {
  int64_t steps, cost;
};

class Pass {
 public:
  explicit Pass(std::span<const RowBlock> blocks) : blocks_(blocks) {}

  // Calls run(block, begin, end) on ranges of steps that cover all blocks, from several threads. A
  // thread shall get at least `grain` units of work. A step counts by its cost, so that threads get
  // equal shares where experts have few rows and many.
  template <class WorkOf, class Run>
  void share(const Parallel& parallel, int64_t grain, WorkOf&& work_of, Run&& run) const {
    int64_t unit = std::numeric_limits<int64_t>::max(), count = 0;
    for (const RowBlock& block : blocks_) unit = std::min(unit, work_of(block).cost);
    for (const RowBlock& block : blocks_) count += Slots(work_of(block), unit).count();
    parallel.for_range(count, (grain + unit - 1) / unit, [&](int64_t begin, int64_t end) {
      const ExactSubnormals mode;
      for (const RowBlock& block : blocks_) {
        if (end <= 0) break;
        const Slots slots(work_of(block), unit);
        const int64_t first = slots.step(begin), last = slots.step(end);
        if (first < last) run(block, first, last);
        begin -= slots.count();
        end -= slots.count();
      }
    });
  }

 private:
  // The steps of a block, each as many slots of the loop as it costs units. A step is run by whom
  // its first slot falls to.
  struct Slots {
    Slots(const Work& work, int64_t unit) : steps(work.steps), each(work.cost / unit) {}
    int64_t count() const { return steps * each; }
    int64_t step(int64_t slot) const {  // the first that begins there or later
      return slot <= 0 ? 0 : std::min(steps, (slot + each - 1) / each);
    }

    int64_t steps, each;
  };

  std::span<const RowBlock> blocks_;
};

// How to cut the rows of an expert: into blocks of nearly equal height, at most `most`, where all
// but the last are multiples of `multiple`, and `most` is one.
struct Cut {
  int64_t most;
  int64_t multiple = 1;
};

class Schedule {
 public:
  // Offsets [experts + 1], or null for one expert with all rows. `size_of(rows)` is the size of the
  // copy of a block, `capacity` what a pass may have if it holds more than one.
  template <class SizeOf>
  Schedule(int64_t m, int64_t experts, const int32_t* offsets, Cut cut, int64_t capacity,
           SizeOf&& size_of)
      : blocks_(cut_rows(m, experts, offsets, cut)) {
    int64_t used = 0;
    for (RowBlock& block : blocks_) {
      const int64_t size = size_of(block.rows);
      if (used + size > capacity) used = 0;
      block.copy = used;
      used += size;
      copy_size_ = std::max(copy_size_, used);
    }
  }

  // Of the largest pass.
  int64_t copy_size() const { return copy_size_; }

  // Calls run(pass) for one after the other.
  template <class Run>
  void for_each_pass(Run&& run) const {
    const std::span<const RowBlock> all = blocks_;
    for (size_t begin = 0, end = 0; begin < all.size(); begin = end) {
      for (end = begin + 1; end < all.size() && all[end].copy != 0;) ++end;
      run(Pass(all.subspan(begin, end - begin)));
    }
  }

 private:
  static std::vector<RowBlock> cut_rows(int64_t m, int64_t experts, const int32_t* offsets,
                                        Cut cut);

  std::vector<RowBlock> blocks_;
  int64_t copy_size_ = 0;
};

}  // namespace qcore
