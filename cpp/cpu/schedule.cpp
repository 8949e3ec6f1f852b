#include "cpu/schedule.h"

#include "qcore/types.h"

namespace qcore {

std::vector<RowBlock> Schedule::cut_rows(int64_t m, int64_t experts, const int32_t* offsets,
                                         Cut cut) {
  std::vector<RowBlock> blocks;
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t begin = offsets ? offsets[e] : 0, end = offsets ? offsets[e + 1] : m;
    const int64_t count = ceil_div(end - begin, cut.most);
    if (count == 0) continue;  // an expert without rows costs nothing
    const int64_t height = ceil_div(ceil_div(end - begin, count), cut.multiple) * cut.multiple;
    for (int64_t first = begin; first < end; first += height) {
      blocks.push_back({e, first, std::min(height, end - first), 0});
    }
  }
  return blocks;
}

}  // namespace qcore
