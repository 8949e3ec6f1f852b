// Where a product puts its result and works: in tensors of its own, or in the caller's.
#pragma once

#include <torch/csrc/stable/library.h>

#include <optional>

#include "executor.h"

namespace qcore::binding {

struct Result {
  std::optional<Tensor> out, workspace;  // the caller's
  int64_t* bytes_needed = nullptr;       // where it is given, nothing is computed

  // y [..., n] for x [..., k].
  Tensor y(const char* op, const Tensor& x, int64_t n, ScalarType type) const;
};

// The caller's workspace, or one on the device of `like`, for at least `bytes`.
Tensor workspace_of(const char* op, const Result& result, const Tensor& like, int64_t bytes);

// Memory for a call, into `args`; null if it needs none. torch gives freed memory only to later
// work of the same stream, so the tensor need not outlive the call.
template <class Args>
std::optional<Tensor> make_workspace(const char* op, Args& args, const Place& place,
                                     const Tensor& like,
                                     Status (*bytes_of)(const Args&, const Executor&, int64_t&),
                                     const Result& result = {}) {
  int64_t bytes = 0;
  if (place.executor().device != Device::cpu) {  // CPU rows need none
    check(bytes_of(args, place.executor(), bytes), op);
  }
  if (result.bytes_needed) *result.bytes_needed = bytes;
  if (bytes == 0 || result.bytes_needed) return std::nullopt;
  Tensor workspace = workspace_of(op, result, like, bytes);
  args.workspace = workspace.mutable_data_ptr();
  return workspace;
}

// The overloads of a product `Tensor product(const Result&, arguments...)`.
template <auto product>
struct Product;
template <class... Arguments, Tensor (*product)(const Result&, Arguments...)>
struct Product<product> {
  static Tensor run(Arguments... arguments) { return product({}, arguments...); }
  static void run_into(Arguments... arguments, const Tensor& out,
                       const std::optional<Tensor>& workspace) {
    product({out, workspace}, arguments...);
  }
  static int64_t workspace_bytes(Arguments... arguments) {
    int64_t bytes = 0;
    product({std::nullopt, std::nullopt, &bytes}, arguments...);
    return bytes;
  }
};

}  // namespace qcore::binding

// What a product adds to its entry in a Registration, after its schema.
#define QCORE_PRODUCT(function)                                                                 \
  TORCH_BOX(&Product<&(function)>::run), kAutograd, TORCH_BOX(&Product<&(function)>::run_into), \
      TORCH_BOX(&Product<&(function)>::workspace_bytes)
