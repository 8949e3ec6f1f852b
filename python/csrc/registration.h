// How a file puts its ops into torch.ops.qcore: one list of schemas and kernels.
#pragma once

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <initializer_list>

namespace qcore::binding {

// What is special about an op.
enum : unsigned {
  // Python gives it gradients, or refuses them. So that a call that asks for none need not go
  // through
  // Python, it has an overload `no_grad` of the same kernel.
  kAutograd = 1,
  kCpuOnly = 2,  // else it is there for CUDA in every build: one without CUDA kernels says so
};

struct Op {
  const char* schema;                                 // "name(Tensor x) -> Tensor"
  void (*kernel)(StableIValue*, uint64_t, uint64_t);  // TORCH_BOX(&function)
  unsigned traits = 0;
};

// Lives as long as the ops shall be known.
class Registration {
 public:
  Registration(std::initializer_list<Op> ops);
  ~Registration();
  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;

 private:
  void define(const char* schema);
  void add(const Op& op);

  TorchLibraryHandle schemas_ = nullptr, cpu_ = nullptr, cuda_ = nullptr;
};

}  // namespace qcore::binding
