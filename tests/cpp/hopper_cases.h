// Matrices for the emulated copy engine.
#pragma once

#include <gtest/gtest.h>

#include <random>

#include "simt/hopper.h"
#include "simt/simt.h"

namespace qcore::testing {

inline TensorMap map_of(const TensorFacts& facts) {
  const Status status = facts.check();
  EXPECT_TRUE(status.ok()) << status.message();
  TensorMap map;
  simt::make_tensor_map(facts, map);
  return map;
}

inline TensorFacts matrix(const void* base, int element_bytes, uint64_t rows, uint64_t columns,
                          uint32_t box_rows, uint32_t box_columns, Swizzle swizzle) {
  return {.base = base,
          .element_bytes = element_bytes,
          .rank = 2,
          .size = {columns, rows, 1},
          .stride = {columns * static_cast<uint64_t>(element_bytes), 0},
          .box = {box_columns, box_rows, 1},
          .swizzle = swizzle};
}

inline std::vector<int8_t> random_bytes(size_t count, std::mt19937& rng) {
  std::vector<int8_t> values(count);
  for (int8_t& value : values) value = static_cast<int8_t>(rng());
  return values;
}

}  // namespace qcore::testing
