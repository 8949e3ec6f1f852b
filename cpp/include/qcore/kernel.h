// Kernel rows: who can run what. Rows are ordered, fastest first, the reference last and always
// able.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "qcore/executor.h"
#include "qcore/formats.h"
#include "qcore/layout.h"
#include "qcore/status.h"
#include "qcore/types.h"

namespace qcore {

// y[M, N] = x[M, perm] * dequantize(weight)^T + bias, accumulated in fp32.
struct W4A16Args {
  int64_t m = 0;
  DType dtype = DType::f32;  // of x, bias and y
  const void* x = nullptr;   // [M, K], rows `x_stride` elements apart, each row contiguous
  int64_t x_stride = 0;
  PackedIntGroup weight = {};
  const int32_t* perm = nullptr;  // [K] or null; column j of the weight meets x[:, perm[j]]
  const void* bias = nullptr;     // [N] or null
  void* y = nullptr;              // [M, N], contiguous
  // The result of a row shall not depend on M. CPU rows keep this promise always.
  bool batch_invariant = false;
  void* workspace = nullptr;  // as many bytes as w4a16_workspace_bytes() says; CPU rows need none
};

// What a row may look at before it says yes.
struct Problem {
  Device device = Device::cpu;
  DType dtype = DType::f32;
  int64_t m = 0;
  IntGroup weight = {};
  int layout = 0;  // 0: not packed yet
  int sm = 0;      // compute capability of the GPU, 90 for 9.0; 0: not known yet
};

struct KernelRow {
  const char* name;  // "w4a16_avx512": <op>_<isa or sm>
  const char* op;    // "w4a16"
  Isa isa;           // for CPU rows
  int sm;            // for CUDA rows: the least compute capability, 80 for 8.0
  const Layout* layout;
  Status (*supports)(const Problem&);
  // Null if the row never needs any.
  Status (*workspace_bytes)(const W4A16Args&, const Executor&, int64_t& bytes);
  Status (*gemm)(const W4A16Args&, const Executor&);

  Device device() const { return layout->device; }
  const char* format() const { return layout->format; }
};

std::span<const KernelRow> kernels();

struct Rejection {
  const char* kernel;
  std::string reason;
};

struct Selection {
  const KernelRow* row = nullptr;  // null: `status` says why
  Status status;
  std::vector<Rejection> rejected;  // the faster rows that were passed over, and why
};

// The first row of `op` that takes the problem. QCORE_FORCE_KERNEL=name (read at every call) allows
// only that row for its op; QCORE_FORCE_ISA=isa hides stronger CPU rows.
Selection select(const char* op, const Problem& problem);

}  // namespace qcore
