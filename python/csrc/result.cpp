#include "result.h"

#include <algorithm>
#include <vector>

namespace qcore::binding {

Tensor Result::y(const char* op, const Tensor& x, int64_t n, ScalarType type) const {
  if (bytes_needed) return new_tensor(x, {1}, type);
  if (!out) return new_rows(x, n, type);
  std::vector<int64_t> expected(sizes(x).begin(), sizes(x).end());
  expected.back() = n;
  check(out->scalar_type() == type && std::ranges::equal(sizes(*out), expected) &&
            out->is_contiguous(),
        op, "out must be contiguous, ", type_name(type), " [..., ", n, "] with the rows of x, got ",
        describe(*out));
  check_same_device(op, "out", *out, "x", x);
  return *out;
}

Tensor workspace_of(const char* op, const Result& result, const Tensor& like, int64_t bytes) {
  if (!result.workspace) return new_tensor(like, {bytes}, ScalarType::Byte);
  const Tensor& given = *result.workspace;
  check(given.scalar_type() == ScalarType::Byte && given.is_contiguous() && given.numel() >= bytes,
        op, "workspace must be contiguous uint8 of at least ", bytes, " elements, got ",
        describe(given));
  check_same_device(op, "workspace", given, "x", like);
  check(reinterpret_cast<uintptr_t>(given.const_data_ptr()) % 16 == 0, op,
        "workspace must start at a multiple of 16 bytes");
  return given;
}

}  // namespace qcore::binding
