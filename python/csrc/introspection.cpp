#include "introspection.h"

#include <stdexcept>

#include "kquant_blocks.h"
#include "qcore/qcore.h"
#include "w4a16_packed.h"

namespace qcore::binding {
namespace {

DType parse_dtype(const std::string& text) {
  if (text == "float32") return DType::f32;
  if (text == "float16") return DType::f16;
  if (text == "bfloat16") return DType::bf16;
  throw std::invalid_argument("dtype must be float32, float16 or bfloat16, got " + text);
}

Device parse_device(const std::string& text) {
  if (text == "cpu") return Device::cpu;
  if (text == "cuda") return Device::cuda;
  throw std::invalid_argument("device must be cpu or cuda, got " + text);
}

ScaledWeight make_weight(int64_t n, int64_t k, int64_t group_size, int bits, bool has_zeros,
                         DType scale_dtype) {
  ScaledWeight weight;
  weight.n = n;
  weight.k = k;
  weight.group_size = group_size == -1 ? k : group_size;
  weight.has_zeros = has_zeros;
  weight.scale_dtype = scale_dtype;
  Status status = elements_of_codes(bits, {}, weight.elements);
  if (status.ok()) status = weight.check();
  if (!status.ok()) throw std::invalid_argument(status.message());
  return weight;
}

template <class Op>
auto select_or_throw(const typename Op::Problem& problem) {
  auto choice = select<Op>(problem);
  if (!choice.row) throw std::invalid_argument(choice.status.message());
  return choice;
}

template <class Op>
Explanation explain_choice(const typename Op::Problem& problem) {
  const auto choice = select_or_throw<Op>(problem);
  std::vector<std::pair<std::string, std::string>> rejected;
  for (const Rejection& rejection : choice.rejected) {
    rejected.emplace_back(rejection.kernel, rejection.reason);
  }
  return {choice.row->name, rejected, choice.row->plan ? choice.row->plan(problem) : ""};
}

BlockShape make_blocks(const std::string& type, int64_t n, int64_t k) {
  const BlockShape shape{find_block_format(type), n, k};
  if (!shape.format) throw std::invalid_argument("type must be a block format, got " + type);
  if (const Status status = shape.check(); !status.ok()) {
    throw std::invalid_argument(status.message());
  }
  return shape;
}

void check_op(const std::string& op) {
  if (op != W4A16::kName) throw std::invalid_argument("op must be w4a16, got " + op);
}

}  // namespace

std::string version() {
  return qcore::version();
}

bool cuda_built() {
  return QCORE_CUDA_BUILT != 0;
}

std::string cpu_isa() {
  return name(active_isa());
}

void want_huge_pages(uintptr_t address, int64_t bytes) {
  qcore::want_huge_pages(reinterpret_cast<void*>(address), bytes);
}

std::vector<Record> list_formats() {
  std::vector<Record> result;
  for (const Format& format : formats()) {
    result.push_back({{"name", format.name}, {"summary", format.summary}});
  }
  return result;
}

std::vector<Record> list_block_formats() {
  std::vector<Record> result;
  for (const BlockFormat& format : block_formats()) {
    result.push_back({{"name", format.name},
                      {"ggml_type", format.ggml_type},
                      {"elements", format.elements},
                      {"bytes", format.bytes},
                      {"group", format.group},
                      {"values", std::vector<int>(format.values, format.values + format.codes)},
                      {"has_min", format.has_min}});
  }
  return result;
}

std::vector<Record> list_kernels() {
  std::vector<Record> result;
  for (const KernelRow* row : kernels()) {
    const bool on_cpu = row->device == Device::cpu;
    result.push_back({{"name", row->name},
                      {"op", row->op},
                      {"format", row->format()},
                      {"device", name(row->device)},
                      {"isa", on_cpu ? name(row->isa()) : ""},
                      {"sm", row->sm},
                      {"layout", row->layout ? row->layout->number : 0}});
  }
  return result;
}

std::vector<std::string> list_isas() {
  std::vector<std::string> result;
  for (const Isa isa : kIsas) {
    if (has_isa(isa)) result.emplace_back(name(isa));
  }
  return result;
}

std::vector<Record> list_layouts() {
  std::vector<Record> result;
  for (const Layout* layout : layouts()) {
    result.push_back({{"number", layout->number},
                      {"name", layout->name},
                      {"format", layout->format},
                      {"device", name(layout->device)}});
  }
  return result;
}

Explanation explain(const std::string& op, int64_t m, int64_t n, int64_t k, int64_t group_size,
                    int bits, bool has_zeros, const std::string& dtype, const std::string& device,
                    int layout, int sm, int multiprocessors, bool batch_invariant) {
  check_op(op);
  W4A16::Problem problem;
  problem.device = parse_device(device);
  problem.dtype = parse_dtype(dtype);
  problem.m = m;
  problem.weight = make_weight(n, k, group_size, bits, has_zeros, problem.dtype);
  problem.layout = layout;
  problem.sm = sm;
  problem.multiprocessors = multiprocessors;
  problem.batch_invariant = batch_invariant;
  return explain_choice<W4A16>(problem);
}

Explanation explain_kquant(const std::string& type, int64_t m, int64_t n, int64_t k,
                           const std::string& dtype, const std::string& device, int layout) {
  return explain_choice<Kquant>({.device = parse_device(device),
                                 .dtype = parse_dtype(dtype),
                                 .m = m,
                                 .weight = make_blocks(type, n, k),
                                 .layout = layout});
}

std::vector<Record> packed_blocks(const std::string& type, int64_t n, int64_t k) {
  const BlockShape shape = make_blocks(type, n, k);
  std::vector<Record> result;
  for (const BlockLayout* layout : block_layouts()) {
    result.push_back({{"layout", layout->number},
                      {"name", layout->name},
                      {"device", name(layout->device)},
                      {"elements", packed_elements(*layout, shape)},
                      {"expert_elements", expert_bytes(*layout, shape)}});
  }
  return result;
}

std::tuple<int, int64_t, int64_t, int64_t> packed_sizes(const std::string& op, int64_t n, int64_t k,
                                                        int64_t group_size, int bits,
                                                        bool has_zeros,
                                                        const std::string& scale_dtype,
                                                        const std::string& device, int64_t layout) {
  check_op(op);
  W4A16::Problem problem;
  problem.device = parse_device(device);
  problem.weight = make_weight(n, k, group_size, bits, has_zeros, parse_dtype(scale_dtype));
  const ScaledLayout* chosen =
      layout ? find_scaled_layout(layout) : &select_or_throw<W4A16>(problem).row->weight_layout();
  if (!chosen) {
    throw std::invalid_argument("layout must be 0 or one of " + all_layouts() + ", got " +
                                std::to_string(layout));
  }
  const PackedSizes sizes = chosen->packed_sizes(problem.weight);
  return {chosen->number, sizes.qweight_bytes, sizes.scales, sizes.zeros};
}

}  // namespace qcore::binding
