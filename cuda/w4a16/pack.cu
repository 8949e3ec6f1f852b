#include <string>

#include "runtime/device.h"
#include "runtime/launch.h"
#include "w4a16/pack.cuh"

namespace qcore::w4a16 {
namespace {

// Two words of device memory for as long as the packing takes.
class Flags {
 public:
  explicit Flags(cudaStream_t stream) : stream_(stream) {
    status_ = cuda::check(cudaMallocAsync(&data_, kBytes, stream), "pack");
    if (status_.ok()) status_ = cuda::check(cudaMemsetAsync(data_, 0, kBytes, stream), "pack");
  }
  ~Flags() {
    if (data_) static_cast<void>(cudaFreeAsync(data_, stream_));
  }
  Flags(const Flags&) = delete;
  Flags& operator=(const Flags&) = delete;

  const Status& status() const { return status_; }
  uint32_t* data() const { return static_cast<uint32_t*>(data_); }
  Status read(uint32_t (&values)[2]) const {
    Status status = cuda::check(
        cudaMemcpyAsync(values, data_, kBytes, cudaMemcpyDeviceToHost, stream_), "pack");
    return status.ok() ? cuda::check(cudaStreamSynchronize(stream_), "pack") : status;
  }

 private:
  static constexpr size_t kBytes = 8;
  cudaStream_t stream_;
  void* data_ = nullptr;
  Status status_;
};

}  // namespace

Status cuda_pack(const ScaledView& weight, const PackedBuffers& packed, const Executor& executor) {
  const cuda::Guard guard(executor);
  if (!guard.status().ok()) return guard.status();
  const cudaStream_t stream = static_cast<cudaStream_t>(executor.stream);
  const Flags bad(stream);
  if (!bad.status().ok()) return bad.status();
  uint32_t found[2] = {};
  Status status = run_pack(weight, packed, bad.data(), cuda::Launcher{stream});
  if (status.ok()) status = bad.read(found);
  if (!status.ok() || !(found[0] || found[1])) return status;
  const std::string expected = "expected values below " + std::to_string(1 << weight.shape.bits()) +
                               " (bits = " + std::to_string(weight.shape.bits()) + ")";
  if (found[1]) return Status::invalid("zeros: " + expected + ", got a larger one");
  return Status::invalid(weight.codes.perm
                             ? "codes: " + expected + " and perm in [0, k), got another one"
                             : "codes: " + expected + ", got a larger one");
}

Status cuda_unpack(const PackedScaled& packed, uint8_t* codes, void* scales, uint8_t* zeros,
                   const Executor& executor) {
  const cuda::Guard guard(executor);
  if (!guard.status().ok()) return guard.status();
  return run_unpack(packed, codes, scales, zeros,
                    cuda::Launcher{static_cast<cudaStream_t>(executor.stream)});
}

}  // namespace qcore::w4a16
