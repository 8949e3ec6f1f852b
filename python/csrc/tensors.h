// What every op needs around the core: tensor checks with messages that name the argument, and the
// mapping between torch's and the core's vocabulary. Only the stable ABI of torch.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>

#include "memory.h"
#include "qcore/qcore.h"

namespace qcore::binding {

// Throws "<op>: <parts>" unless `ok`. The dispatcher turns it into Python's RuntimeError.
template <class... Parts>
void check(bool ok, const char* op, const Parts&... parts) {
  if (ok) [[likely]] {
    return;
  }
  std::ostringstream message;
  message << "qcore." << op << ": ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

void check(const Status& status, const char* op);

// Parts of a message, which become text only if it is needed.
struct describe {  // "uint8 [3, 4] on cuda:0"
  explicit describe(const Tensor& of) : tensor(of) {}
  const Tensor& tensor;
};
struct device_name {  // "cpu", "cuda:0"
  explicit device_name(const Tensor& of) : tensor(of) {}
  const Tensor& tensor;
};
std::ostream& operator<<(std::ostream& out, const describe& part);
std::ostream& operator<<(std::ostream& out, const device_name& part);

std::span<const int64_t> sizes(const Tensor& tensor);
bool has_sizes(const Tensor& tensor, std::initializer_list<int64_t> expected);

// E of a weight [E, N, K]; none of a weight [N, K]. What belongs to the weight of experts has E in
// front of its sizes, and the text of them "E, ".
using Experts = std::optional<int64_t>;
std::string in_front(const Experts& experts);
bool has_sizes(const Tensor& tensor, const Experts& experts,
               std::initializer_list<int64_t> expected);

const char* type_name(ScalarType type);  // as Python shows it: float16, not Half
bool is_float(ScalarType type);          // float32, float16 or bfloat16
bool is_float(const Tensor& tensor);
DType to_dtype(ScalarType type);  // of one for which is_float holds

Device device_of(const Tensor& tensor);
// Throws unless `name` is on the device of the argument `with_name`.
void check_same_device(const char* op, const char* name, const Tensor& tensor,
                       const char* with_name, const Tensor& with);

// The tensor itself if it is contiguous, else a copy.
Tensor dense(const Tensor& tensor);
// The same, and on a GPU, whose kernels load 16 bytes at once, it starts at a multiple of 16 bytes.
// torch's own allocations do; a view may not.
Tensor dense_aligned(const Tensor& tensor);
// The tensor itself if it is of that type, else a copy.
Tensor converted(const Tensor& tensor, ScalarType type);

// Activations [..., k] of a gemm.
void check_x(const char* op, const Tensor& x, int64_t k);
// The bias [n] contiguous, in the dtype of x and on its device.
std::optional<Tensor> check_bias(const char* op, const std::optional<Tensor>& bias,
                                 const Experts& experts, int64_t n, const Tensor& x);
// The offsets [E + 1] of the rows of x, given if and only if the weight has experts; contiguous, on
// the device of x. The core looks at what they hold.
std::optional<Tensor> check_offsets(const char* op, const std::optional<Tensor>& offsets,
                                    const Experts& experts, const Tensor& x);
// x as rows of k contiguous elements: its own memory where the strides allow that, else a copy.
struct Rows {
  Tensor tensor;
  int64_t count, stride;
};
Rows as_rows(const Tensor& x, int64_t k);

// An uninitialised tensor on the device of `like`.
Tensor new_tensor(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type);
Tensor new_tensor(const Tensor& like, const Experts& experts, std::initializer_list<int64_t> sizes,
                  ScalarType type);
// Of the sizes of `like` [..., x], with `columns` in place of the last one.
Tensor new_rows(const Tensor& like, int64_t columns, ScalarType type);

}  // namespace qcore::binding
