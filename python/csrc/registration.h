// How a file puts its ops into torch.ops.qcore: one list of schemas and kernels.
#pragma once

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <initializer_list>
#include <string>

namespace qcore::binding {

// What is special about an op.
enum : unsigned {
  // Python gives it gradients, or refuses them. So that a call that asks for none need not go
  // through
  // Python, it has an overload `no_grad` of the same kernel.
  kAutograd = 1,
  kCpuOnly = 2,  // else it is there for CUDA in every build: one without CUDA kernels says so
};

using Kernel = void (*)(StableIValue*, uint64_t, uint64_t);  // TORCH_BOX(&function)

struct Op {
  const char* schema;  // "name(Tensor x) -> Tensor"
  Kernel kernel;
  unsigned traits = 0;
  // Overloads of a product: `out`, whose result and workspace are the caller's, and
  // `workspace_bytes`, how large that must be.
  Kernel out = nullptr;
  Kernel workspace_bytes = nullptr;
};

// The ops are known until the process ends, and the library stays loaded: at exit torch takes the
// overloads of an op away one by one and stumbles over those that are left.
class Registration {
 public:
  Registration(std::initializer_list<Op> ops);
  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;

 private:
  void define(const char* schema);
  void add(const std::string& schema, unsigned traits, Kernel kernel);

  TorchLibraryHandle schemas_ = nullptr, cpu_ = nullptr, cuda_ = nullptr;
};

}  // namespace qcore::binding
