#include "tensors.h"

#include <algorithm>
#include <vector>

namespace qcore::binding {

const char* type_name(ScalarType type) {
  switch (type) {
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Short: return "int16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Half: return "float16";
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Bool: return "bool";
    case ScalarType::Float8_e4m3fn: return "float8_e4m3fn";
    case ScalarType::Float8_e5m2: return "float8_e5m2";
    default: return torch::headeronly::toString(type);
  }
}

void check(const Status& status, const char* op) {
  if (status.code() == StatusCode::out_of_memory) {
    throw_out_of_memory(std::string("qcore.") + op +
                        ": can't allocate memory: " + status.message());
  }
  check(status.ok(), op, status.message());
}

std::span<const int64_t> sizes(const Tensor& tensor) {
  const auto view = tensor.sizes();
  return {view.data(), view.size()};
}

bool has_sizes(const Tensor& tensor, std::initializer_list<int64_t> expected) {
  const auto actual = sizes(tensor);
  return std::equal(actual.begin(), actual.end(), expected.begin(), expected.end());
}

std::string in_front(const Experts& experts) {
  return experts ? std::to_string(*experts) + ", " : "";
}

bool has_sizes(const Tensor& tensor, const Experts& experts,
               std::initializer_list<int64_t> expected) {
  if (!experts) return has_sizes(tensor, expected);
  const auto actual = sizes(tensor);
  return actual.size() == expected.size() + 1 && actual[0] == *experts &&
         std::equal(expected.begin(), expected.end(), actual.begin() + 1);
}

std::ostream& operator<<(std::ostream& out, const device_name& part) {
  if (part.tensor.is_cpu()) return out << "cpu";
  if (!part.tensor.is_cuda()) return out << "another device";
  return out << "cuda:" << part.tensor.get_device_index();
}

std::ostream& operator<<(std::ostream& out, const describe& part) {
  out << type_name(part.tensor.scalar_type()) << " [";
  const char* separator = "";
  for (const int64_t size : sizes(part.tensor)) {
    out << separator << size;
    separator = ", ";
  }
  out << "]";
  return part.tensor.is_cpu() ? out : out << " on " << device_name(part.tensor);
}

bool is_float(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16;
}

bool is_float(const Tensor& tensor) {
  return is_float(tensor.scalar_type());
}

DType to_dtype(ScalarType type) {
  return type == ScalarType::Float  ? DType::f32
         : type == ScalarType::Half ? DType::f16
                                    : DType::bf16;
}

Device device_of(const Tensor& tensor) {
  return tensor.is_cuda() ? Device::cuda : Device::cpu;
}

void check_same_device(const char* op, const char* name, const Tensor& tensor,
                       const char* with_name, const Tensor& with) {
  check(tensor.device() == with.device(), op, name, " must be on ", device_name(with), " like ",
        with_name, ", got ", describe(tensor), tensor.is_cpu() ? " on cpu" : "");
}

Tensor dense(const Tensor& tensor) {
  if (tensor.is_contiguous()) return tensor;
  return copied(tensor, [](const Tensor& of) { return torch::stable::contiguous(of); });
}

Tensor dense_aligned(const Tensor& tensor) {
  Tensor result = dense(tensor);
  const bool aligned = reinterpret_cast<uintptr_t>(result.const_data_ptr()) % 16 == 0;
  if (aligned || result.is_cpu()) return result;
  return copied(result, [](const Tensor& of) { return torch::stable::clone(of); });
}

Tensor converted(const Tensor& tensor, ScalarType type) {
  if (tensor.scalar_type() == type) return tensor;
  return copied(tensor, [type](const Tensor& of) { return torch::stable::to(of, type); });
}

void check_x(const char* op, const Tensor& x, int64_t k) {
  check(is_float(x), op, "x must be float32, float16 or bfloat16, got ", describe(x));
  check(x.dim() >= 1 && x.size(x.dim() - 1) == k, op, "x must have the sizes [..., ", k, "], got ",
        describe(x));
}

std::optional<Tensor> check_bias(const char* op, const std::optional<Tensor>& bias,
                                 const Experts& experts, int64_t n, const Tensor& x) {
  if (!bias) return std::nullopt;
  check(is_float(*bias) && has_sizes(*bias, experts, {n}), op,
        "bias must be float32, float16 or bfloat16 [", in_front(experts), n, "], got ",
        describe(*bias));
  check_same_device(op, "bias", *bias, "x", x);
  return dense(converted(*bias, x.scalar_type()));
}

std::optional<Tensor> check_offsets(const char* op, const std::optional<Tensor>& offsets,
                                    const Experts& experts, const Tensor& x) {
  if (!experts) {
    check(!offsets, op,
          "offsets must be None, because the weight is not one of experts, [E, N, K]");
    return std::nullopt;
  }
  check(offsets.has_value(), op, "offsets must be int32 [", *experts + 1,
        "], because the weight has ", *experts, " experts, got None");
  check(offsets->scalar_type() == ScalarType::Int && has_sizes(*offsets, {*experts + 1}), op,
        "offsets must be int32 [", *experts + 1, "], one more than the weight has experts, got ",
        describe(*offsets));
  check_same_device(op, "offsets", *offsets, "x", x);
  return dense(*offsets);
}

Rows as_rows(const Tensor& x, int64_t k) {
  const int64_t count = x.numel() / k;
  if (x.dim() == 2 && count > 1 && x.stride(1) == 1) {
    return {x, count, x.stride(0)};
  }
  return {dense(x), count, k};
}

Tensor new_tensor(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  return allocate(like, {sizes.begin(), sizes.size()}, type);
}

Tensor new_tensor(const Tensor& like, const Experts& experts, std::initializer_list<int64_t> sizes,
                  ScalarType type) {
  if (!experts) return new_tensor(like, sizes, type);
  std::vector<int64_t> all(sizes);
  all.insert(all.begin(), *experts);
  return allocate(like, all, type);
}

Tensor new_rows(const Tensor& like, int64_t columns, ScalarType type) {
  std::vector<int64_t> all(sizes(like).begin(), sizes(like).end());
  all.back() = columns;
  return allocate(like, all, type);
}

}  // namespace qcore::binding
