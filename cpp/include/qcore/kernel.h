// Kernel rows: who can run what. Rows are ordered, fastest first, the reference last and always
// able.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "qcore/formats.h"
#include "qcore/parallel.h"
#include "qcore/status.h"
#include "qcore/types.h"

namespace qcore {

// An int_group weight in the layout of one kernel family. `layout` numbers the memory layout: rows
// with the same number read the same bytes, so forcing another row of that layout needs no
// repacking.
struct PackedIntGroup {
  IntGroup shape;
  int layout = 0;
  const void* qweight = nullptr;   // codes
  const void* scales = nullptr;    // shape.scale_dtype
  const uint8_t* zeros = nullptr;  // null if symmetric
};

// How large the buffers of a packed weight are.
struct PackedSizes {
  int64_t qweight_bytes = 0;
  int64_t scales = 0;  // elements of shape.scale_dtype
  int64_t zeros = 0;   // bytes, 0 if symmetric
};

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
};

// What a row may look at before it says yes.
struct Problem {
  Device device = Device::cpu;
  DType dtype = DType::f32;
  int64_t m = 0;
  IntGroup weight = {};
  int layout = 0;  // 0: not packed yet
};

struct KernelRow {
  const char* name;    // "w4a16_avx512": <op>_<isa or sm>
  const char* op;      // "w4a16"
  const char* format;  // a name of formats()
  Device device;
  Isa isa;  // for CPU rows
  int layout;
  Status (*supports)(const Problem&);
  PackedSizes (*packed_sizes)(const IntGroup&);
  // codes [N, K], scales [N, G], zeros [N, G] or null: all contiguous.
  Status (*pack)(const IntGroup&, const uint8_t* codes, const void* scales, const uint8_t* zeros,
                 void* packed_qweight, void* packed_scales, uint8_t* packed_zeros, const Parallel&);
  Status (*unpack)(const PackedIntGroup&, uint8_t* codes, void* scales, uint8_t* zeros,
                   const Parallel&);
  Status (*gemm)(const W4A16Args&, const Parallel&);
};

std::span<const KernelRow> kernels();

// The first row of `op` that reads the layout, null if there is none. A layout belongs to one
// device.
const KernelRow* row_of_layout(std::string_view op, int64_t layout);

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
