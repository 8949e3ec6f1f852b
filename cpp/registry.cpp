#include "registry.h"

#include <cstdlib>
#include <string_view>

#include "cpu/features.h"

namespace qcore {
namespace {

std::vector<KernelRow> collect() {
  std::vector<KernelRow> rows;
#if QCORE_HAVE_CUDA
  for (const KernelRow& row : cuda_rows()) rows.push_back(row);
#endif
  for (const KernelRow& row : cpu_rows()) rows.push_back(row);
  return rows;
}

const KernelRow* find_row(std::string_view name) {
  for (const KernelRow& row : kernels()) {
    if (name == row.name) return &row;
  }
  return nullptr;
}

std::string all_names() {
  std::string names;
  for (const KernelRow& row : kernels())
    names += (names.empty() ? "" : ", ") + std::string(row.name);
  return names;
}

std::string capability(int sm) {
  return std::to_string(sm / 10) + "." + std::to_string(sm % 10);
}

// What holds for every row; the row's own supports() says the rest.
Status accepts(const KernelRow& row, const Problem& problem, const IsaChoice& isa) {
  if (row.device() != problem.device) {
    return Status::unsupported(std::string("runs on ") + name(row.device()) +
                               ", the problem is on " + name(problem.device));
  }
  if (row.device() == Device::cpu && row.isa > isa.isa) {
    return Status::unsupported(std::string("needs ") + name(row.isa) +
                               (isa.forced ? ", QCORE_FORCE_ISA=" : ", this machine has ") +
                               name(isa.isa));
  }
  if (problem.sm != 0 && row.sm > problem.sm) {
    return Status::unsupported("needs compute capability " + capability(row.sm) +
                               ", this GPU has " + capability(problem.sm));
  }
  if (problem.layout != 0 && problem.layout != row.layout->number) {
    return Status::unsupported("reads layout " + std::to_string(row.layout->number) +
                               ", the weight is packed in layout " +
                               std::to_string(problem.layout));
  }
  return row.supports(problem);
}

Selection fail(Status status) {
  Selection selection;
  selection.status = std::move(status);
  return selection;
}

}  // namespace

std::span<const KernelRow> kernels() {
  static const std::vector<KernelRow> rows = collect();
  return rows;
}

Selection select(const char* op, const Problem& problem) {
  const IsaChoice isa = choose_isa();
  if (!isa.status.ok()) return fail(isa.status);

  const char* forced_name = std::getenv("QCORE_FORCE_KERNEL");
  const KernelRow* forced = nullptr;
  if (forced_name && *forced_name) {
    forced = find_row(forced_name);
    if (!forced) {
      return fail(Status::invalid(std::string("QCORE_FORCE_KERNEL=") + forced_name +
                                  ": expected one of " + all_names()));
    }
    if (std::string_view(forced->op) != op) forced = nullptr;
  }
  if (forced) {
    if (Status status = accepts(*forced, problem, isa); !status.ok()) {
      return fail({status.code(), std::string("QCORE_FORCE_KERNEL=") + forced_name +
                                      ": the kernel " + status.message()});
    }
    return {forced, {}, {}};
  }

  Selection selection;
  bool known_op = false, known_device = false;
  for (const KernelRow& row : kernels()) {
    if (std::string_view(row.op) != op) continue;
    known_op = true;
    if (row.device() != problem.device) continue;  // not a candidate; no reason worth its string
    known_device = true;
    const Status status = accepts(row, problem, isa);
    if (status.ok()) {
      selection.row = &row;
      return selection;
    }
    selection.rejected.push_back({row.name, status.message()});
  }
  if (!known_op) {
    selection.status = Status::invalid(std::string("op: no kernel is named for '") + op + "'");
    return selection;
  }
  if (!known_device) {
    selection.status = Status::unsupported(std::string(op) + ": this build has no kernels for " +
                                           name(problem.device));
    return selection;
  }
  std::string message = std::string(op) + ": no kernel takes this problem";
  for (const Rejection& rejection : selection.rejected) {
    message += std::string("; ") + rejection.kernel + " " + rejection.reason;
  }
  selection.status = Status::unsupported(std::move(message));
  return selection;
}

}  // namespace qcore
