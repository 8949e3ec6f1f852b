// Tensors that an op makes, and what happens where there is no memory for them: the error is the
// one that torch's own ops end in.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <exception>
#include <span>
#include <string>

namespace qcore::binding {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A contiguous, uninitialised tensor on the device of `like`.
Tensor allocate(const Tensor& like, std::span<const int64_t> sizes, ScalarType type);

// torch.OutOfMemoryError, which is a RuntimeError; without Python std::runtime_error.
[[noreturn]] void throw_out_of_memory(const std::string& message);

// Throws what torch said of its failure to make `bytes` on the device of `like`.
[[noreturn]] void throw_failed_allocation(const Tensor& like, int64_t bytes);

// What `copy` makes of `tensor`, one of torch's ops.
template <class Copy>
Tensor copied(const Tensor& tensor, Copy copy) {
  try {
    return copy(tensor);
  } catch (const std::exception&) {  // of the stable ABI: it does not say why
    throw_failed_allocation(tensor, tensor.numel() * static_cast<int64_t>(tensor.element_size()));
  }
}

}  // namespace qcore::binding
