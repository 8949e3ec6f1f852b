// The CUDA kernel rows, fastest first.
#include "kquant/rows.h"

#include "cuda_rows.h"
#include "kquant/packed.h"
#include "kquant/plan.h"
#include "quantize/rows.h"
#include "runtime/device.h"
#include "scaled/hopper_rows.h"
#include "scaled/plan.h"
#include "scaled/rows.h"
#include "w4a16/hopper_plan.h"
#include "w4a16/plan.h"
#include "w4a16/rows.h"

namespace qcore {
namespace {

template <class Problem>
Status takes_every_dense_problem(const Problem& problem) {
  if (Status status = problem.weight.check(); !status.ok()) return status;
  return tile::takes_one_expert(problem.weight.experts);
}

const Row<W4A16> kW4A16[] = {
    {{.name = "w4a16_marlin_sm90",
      .op = W4A16::kName,
      .device = Device::cuda,
      .sm = 90,
      .layout = &w4a16::layout},
     w4a16::hopper_supports,
     w4a16::hopper_workspace_bytes,
     w4a16::hopper_gemm,
     w4a16::describe_hopper_plan},
    {{.name = "w4a16_marlin_sm80",
      .op = W4A16::kName,
      .device = Device::cuda,
      .sm = 80,
      .layout = &w4a16::layout},
     w4a16::supports,
     w4a16::workspace_bytes,
     w4a16::gemm,
     w4a16::describe_plan},
    {{.name = "w4a16_cuda_reference",
      .op = W4A16::kName,
      .device = Device::cuda,
      .sm = 80,
      .layout = &w4a16::layout},
     takes_every_dense_problem<W4A16::Problem>,
     nullptr,
     w4a16::reference_gemm},
};

const Row<Kquant> kKquant[] = {
    {{.name = "kquant_marlin_sm80",
      .op = Kquant::kName,
      .device = Device::cuda,
      .sm = 80,
      .layout = &kquant::layout},
     kquant::supports,
     kquant::workspace_bytes,
     kquant::gemm},
    {{.name = "kquant_cuda_reference",
      .op = Kquant::kName,
      .device = Device::cuda,
      .sm = 80,
      .layout = &kquant::layout},
     takes_every_dense_problem<Kquant::Problem>,
     nullptr,
     kquant::reference_gemm},
};

const Row<Int8> kInt8[] = {
    {{.name = "int8_sm90", .op = Int8::kName, .device = Device::cuda, .sm = 90},
     scaled::hopper_supports,
     scaled::hopper_workspace_bytes,
     scaled::hopper_gemm},
    {{.name = "int8_sm80", .op = Int8::kName, .device = Device::cuda, .sm = 80},
     scaled::supports,
     scaled::workspace_bytes,
     scaled::gemm},
    {{.name = "int8_cuda_reference", .op = Int8::kName, .device = Device::cuda, .sm = 80},
     scaled::reference_supports,
     scaled::reference_workspace_bytes,
     scaled::reference_gemm},
};

const Row<Fp8> kFp8[] = {
    {{.name = "fp8_sm90", .op = Fp8::kName, .device = Device::cuda, .sm = 90},
     scaled::hopper_supports,
     scaled::hopper_workspace_bytes,
     scaled::hopper_gemm},
    {{.name = "fp8_sm89", .op = Fp8::kName, .device = Device::cuda, .sm = 89},
     scaled::supports,
     scaled::workspace_bytes,
     scaled::gemm},
    {{.name = "fp8_cuda_reference", .op = Fp8::kName, .device = Device::cuda, .sm = 80},
     scaled::reference_supports,
     scaled::reference_workspace_bytes,
     scaled::reference_gemm},
};

// These take every problem.
const Row<QuantizeInt8> kQuantizeInt8[] = {
    {{.name = "quantize_int8_sm80", .op = QuantizeInt8::kName, .device = Device::cuda, .sm = 80},
     quantize::supports,
     quantize::int8_workspace_bytes,
     quantize::int8},
};

const Row<QuantizeFp8> kQuantizeFp8[] = {
    {{.name = "quantize_fp8_sm80", .op = QuantizeFp8::kName, .device = Device::cuda, .sm = 80},
     quantize::supports,
     quantize::fp8_workspace_bytes,
     quantize::fp8},
};

}  // namespace

std::span<const Row<W4A16>> w4a16_cuda_rows() {
  return kW4A16;
}

std::span<const Row<Kquant>> kquant_cuda_rows() {
  return kKquant;
}

std::span<const Row<Int8>> int8_cuda_rows() {
  return kInt8;
}

std::span<const Row<Fp8>> fp8_cuda_rows() {
  return kFp8;
}

std::span<const Row<QuantizeInt8>> quantize_int8_cuda_rows() {
  return kQuantizeInt8;
}

std::span<const Row<QuantizeFp8>> quantize_fp8_cuda_rows() {
  return kQuantizeFp8;
}

Status cuda_sm(int index, int& sm) {
  cuda::Properties device;
  Status status = cuda::properties(index, device);
  sm = device.sm;
  return status;
}

}  // namespace qcore
