#include "memory.h"

#include <torch/csrc/stable/stableivalue_conversions.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <stdexcept>

#include "introspection.h"

// From torch 2.13 on; null in an older one. The headers hide it from a build for 2.10.
extern "C" [[gnu::weak]] const char* torch_exception_get_what_without_backtrace();

namespace qcore::binding {
namespace {

std::atomic<void (*)(const char*)> raise_in_python = nullptr;

// As of `at::Tensor`.
constexpr size_t kMaxDims = 64;

}  // namespace

void throw_out_of_memory(const std::string& message) {
  if (const auto raise = raise_in_python.load()) raise(message.c_str());
  throw std::runtime_error(message);
}

void throw_failed_allocation(const Tensor& like, int64_t bytes) {
  std::string said;
  if (torch_exception_get_what_without_backtrace) {
    said = torch_exception_get_what_without_backtrace();
    const auto has = [&](const char* part) { return said.find(part) != std::string::npos; };
    if (!has("out of memory") && !has("allocate memory")) throw std::runtime_error(said);
  } else if (like.is_cpu()) {
    said = "DefaultCPUAllocator: can't allocate memory: you tried to allocate " +
           std::to_string(bytes) + " bytes";
  } else {
    said = "CUDA out of memory. Tried to allocate " + std::to_string(bytes) + " bytes.";
  }
  throw_out_of_memory(said);
}

Tensor allocate(const Tensor& like, std::span<const int64_t> sizes, ScalarType type) {
  if (sizes.size() > kMaxDims) {
    throw std::runtime_error("tensors have at most 64 dimensions, got " +
                             std::to_string(sizes.size()));
  }
  std::array<int64_t, kMaxDims> strides;
  uint64_t stride = 1;  // may wrap around: torch refuses such sizes
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = static_cast<int64_t>(stride);
    stride *= static_cast<uint64_t>(std::max<int64_t>(1, sizes[i]));
  }
  const auto dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  int32_t device = 0, index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle made = nullptr;
  if (aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                               dtype, device, index, &made) != AOTI_TORCH_SUCCESS) {
    throw_failed_allocation(like,
                            static_cast<int64_t>(stride * aoti_torch_dtype_element_size(dtype)));
  }
  return Tensor(made);
}

void on_out_of_memory(void (*raise)(const char* message)) {
  raise_in_python = raise;
}

}  // namespace qcore::binding
