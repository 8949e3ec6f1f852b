#include "registry.h"

#include <cstdlib>
#include <string_view>

#include "cpu/features.h"
#include "cpu/rows.h"
#include "cuda_built.h"
#include "cuda_rows.h"

namespace qcore {
namespace {

using Rows = std::vector<const KernelRow*>;

template <class Op>
void append(Rows& rows, std::span<const Row<Op>> of_op) {
  for (const Row<Op>& row : of_op) rows.push_back(&row);
}

Rows collect() {
  Rows rows;
#if QCORE_HAVE_CUDA
  append(rows, w4a16_cuda_rows());
  append(rows, kquant_cuda_rows());
  append(rows, int8_cuda_rows());
  append(rows, fp8_cuda_rows());
  append(rows, quantize_int8_cuda_rows());
  append(rows, quantize_fp8_cuda_rows());
#endif
  append(rows, w4a16_cpu_rows());
  append(rows, kquant_cpu_rows());
  append(rows, int8_cpu_rows());
  append(rows, fp8_cpu_rows());
  append(rows, quantize_int8_cpu_rows());
  append(rows, quantize_fp8_cpu_rows());
  append(rows, fake_quantize_cpu_rows());
  append(rows, fake_quantize_backward_cpu_rows());
  return rows;
}

const KernelRow* find_row(std::string_view name) {
  for (const KernelRow* row : kernels()) {
    if (name == row->name) return row;
  }
  return nullptr;
}

std::string all_names() {
  std::string names;
  for (const KernelRow* row : kernels()) {
    names += (names.empty() ? "" : ", ") + std::string(row->name);
  }
  return names;
}

std::string capability(int sm) {
  return std::to_string(sm / 10) + "." + std::to_string(sm % 10);
}

// What holds for every row; the row's own supports() says the rest.
Status accepts(const KernelRow& row, const AnyProblem& problem, const IsaChoice& isa) {
  if (row.device != problem.device) {
    return Status::unsupported(std::string("runs on ") + name(row.device) + ", the problem is on " +
                               name(problem.device));
  }
  if (row.device == Device::cpu) {
    if (!isa.machine.has(row.needs)) {
      return Status::unsupported(std::string("needs ") + name(row.isa()) + ", this machine has " +
                                 names_of(isa.machine));
    }
    if (!isa.allowed.has(row.needs)) {
      return Status::unsupported(std::string("needs ") + name(row.isa()) +
                                 ", QCORE_FORCE_ISA=" + name(isa.isa));
    }
  }
  if (problem.sm != 0 && row.sm > problem.sm) {
    return Status::unsupported("needs compute capability " + capability(row.sm) +
                               ", this GPU has " + capability(problem.sm));
  }
  if (problem.layout != 0 && row.layout && problem.layout != row.layout->number) {
    return Status::unsupported("reads layout " + std::to_string(row.layout->number) +
                               ", the weight is packed in layout " +
                               std::to_string(problem.layout));
  }
  return problem.supports(row, problem.typed);
}

Choice<KernelRow> fail(Status status) {
  return {nullptr, std::move(status), {}};
}

}  // namespace

std::span<const KernelRow* const> kernels() {
  static const Rows rows = collect();
  return rows;
}

Choice<KernelRow> select_row(const AnyProblem& problem) {
  const std::string op = problem.op;
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
    if (forced->op != op) forced = nullptr;
  }
  if (forced) {
    if (Status status = accepts(*forced, problem, isa); !status.ok()) {
      return fail({status.code(), std::string("QCORE_FORCE_KERNEL=") + forced_name +
                                      ": the kernel " + status.message()});
    }
    return {forced, {}, {}};
  }

  Choice<KernelRow> choice;
  for (const KernelRow* row : kernels()) {
    // A row of another device is not a candidate: no reason is worth its string.
    if (row->op != op || row->device != problem.device) continue;
    const Status status = accepts(*row, problem, isa);
    if (status.ok()) {
      choice.row = row;
      return choice;
    }
    choice.rejected.push_back({row->name, status.message()});
  }
  if (choice.rejected.empty()) {
    choice.status =
        Status::unsupported(op + ": this build has no kernels for " + name(problem.device));
    return choice;
  }
  std::string message = op + ": no kernel takes this problem";
  for (const Rejection& rejection : choice.rejected) {
    message += std::string("; ") + rejection.kernel + " " + rejection.reason;
  }
  choice.status = Status::unsupported(std::move(message));
  return choice;
}

Status check_place(int layout, const Executor& executor, int& sm) {
  sm = 0;
  const Layout* const known = find_layout(layout);
  if (!known) {
    return Status::invalid("weight.layout: there is no layout " + std::to_string(layout));
  }
  if (known->device != executor.device) {
    return Status::invalid(std::string("weight.layout: ") + known->name + " is read on " +
                           name(known->device) + ", the call is on " + name(executor.device));
  }
  return check_device(executor, sm);
}

Status check_device(const Executor& executor, int& sm) {
  sm = 0;
#if QCORE_HAVE_CUDA
  if (executor.device == Device::cuda) return cuda_sm(executor.index, sm);
#endif
  static_cast<void>(executor);
  return {};
}

}  // namespace qcore
