#include "formats/packing.h"

#include <string>

#include "formats/code_order.h"

namespace qcore {

Status too_large(const char* argument, const char* column, int value, int64_t index, int64_t width,
                 int bits) {
  return Status::invalid(std::string(argument) + ": expected values below " +
                         std::to_string(1 << bits) + " (bits = " + std::to_string(bits) +
                         "), got " + std::to_string(value) +
                         " at n = " + std::to_string(index / width) + ", " + column + " = " +
                         std::to_string(index % width));
}

Status FirstBadCode::status(const ScaledView& weight) const {
  const int64_t index = first_.load();
  if (index == kNone) return {};
  const uint32_t value = code_at(weight.codes, weight.shape, index / weight.shape.k,
                                 index % weight.shape.k, HostLoad{});
  return too_large("codes", "k", static_cast<int>(value), index, weight.shape.k,
                   weight.shape.bits());
}

}  // namespace qcore
