// Kernel rows: who can run what. Rows are ordered, fastest first, the reference last and always
// able. What is listed of a row is the same for every op; what it runs is typed by its op, a struct
// such as W4A16 (w4a16.h):
//
//   struct W4A16 {
//     static constexpr const char* kName = "w4a16";
//     using Args = W4A16Args;                 // of one call
//     using Problem = GemmProblem<ScaledWeight>;  // what a row may look at before it says yes
//     using Layout = ScaledLayout;          // of the weight
//   };
//
// Ops on canonical tensors (int8.h, fp8.h, quantize.h) have no layout.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "qcore/executor.h"
#include "qcore/export.h"
#include "qcore/isa.h"
#include "qcore/layout.h"
#include "qcore/status.h"
#include "qcore/types.h"

namespace QCORE_API qcore {

struct KernelRow {
  const char* name;  // "w4a16_avx512": <op>_<isa or sm>
  const char* op;    // "w4a16"
  Device device = Device::cpu;
  CpuFeatures needs = {};          // for CPU rows
  int sm = 0;                      // for CUDA rows: the least compute capability, 80 for 8.0
  const Layout* layout = nullptr;  // of the weight, of the op's type; null if it is canonical

  Isa isa() const { return isa_of(needs); }
  const char* format() const { return layout ? layout->format : ""; }
};

template <class Op>
struct Row : KernelRow {
  using Args = typename Op::Args;

  Status (*supports)(const typename Op::Problem&);
  // Null if the row never needs any.
  Status (*workspace_bytes)(const Args&, const Executor&, int64_t& bytes);
  Status (*run)(const Args&, const Executor&);
  // How the row would cut up the problem, in words, for people; null if there is nothing to say.
  std::string (*plan)(const typename Op::Problem&) = nullptr;

  const typename Op::Layout& weight_layout() const {
    return static_cast<const typename Op::Layout&>(*layout);
  }
};

// The problem of an op that multiplies activations with a packed weight.
template <class Weight>
struct GemmProblem {
  Device device = Device::cpu;
  DType dtype = DType::f32;
  int64_t m = 0;
  Weight weight = {};
  int layout = 0;           // 0: not packed yet
  int sm = 0;               // compute capability of the GPU, 90 for 9.0; 0: not known yet
  int multiprocessors = 0;  // of the GPU; 0: not known yet
  bool batch_invariant = false;
};

std::span<const KernelRow* const> kernels();

// The row as one of `Op`; null if it is of another op.
template <class Op>
const Row<Op>* row_of(const KernelRow& row) {
  return std::string_view(row.op) == Op::kName ? static_cast<const Row<Op>*>(&row) : nullptr;
}

struct Rejection {
  const char* kernel;
  std::string reason;
};

template <class Row>
struct Choice {
  const Row* row = nullptr;  // null: `status` says why
  Status status;
  std::vector<Rejection> rejected;  // the faster rows that were passed over, and why
};

// What select() below asks of every problem, and how it asks a row for the rest.
struct AnyProblem {
  const char* op;
  Device device;
  int layout, sm;
  const void* typed;
  Status (*supports)(const KernelRow& row, const void* typed);
};
Choice<KernelRow> select_row(const AnyProblem& problem);

// The first row of `Op` that takes the problem. QCORE_FORCE_KERNEL=name (read at every call) allows
// only that row for its op; QCORE_FORCE_ISA=isa hides stronger CPU rows.
template <class Op>
Choice<Row<Op>> select(const typename Op::Problem& problem) {
  using Problem = typename Op::Problem;
  int layout = 0;
  if constexpr (requires { problem.layout; }) layout = problem.layout;
  Choice<KernelRow> choice = select_row({Op::kName, problem.device, layout, problem.sm, &problem,
                                         [](const KernelRow& row, const void* typed) {
                                           return static_cast<const Row<Op>&>(row).supports(
                                               *static_cast<const Problem*>(typed));
                                         }});
  return {static_cast<const Row<Op>*>(choice.row), std::move(choice.status),
          std::move(choice.rejected)};
}

}  // namespace QCORE_API qcore
