#include <string>

#include "device.h"
#include "launch.h"
#include "marlin/pack.cuh"

namespace qcore::marlin {
namespace {

// A word of device memory for as long as the packing takes.
class Word32 {
 public:
  explicit Word32(cudaStream_t stream) : stream_(stream) {
    status_ = cuda::check(cudaMallocAsync(&data_, 4, stream), "pack");
    if (status_.ok()) status_ = cuda::check(cudaMemsetAsync(data_, 0, 4, stream), "pack");
  }
  ~Word32() {
    if (data_) static_cast<void>(cudaFreeAsync(data_, stream_));
  }
  Word32(const Word32&) = delete;
  Word32& operator=(const Word32&) = delete;

  const Status& status() const { return status_; }
  uint32_t* data() const { return static_cast<uint32_t*>(data_); }
  Status read(uint32_t& value) const {
    Status status =
        cuda::check(cudaMemcpyAsync(&value, data_, 4, cudaMemcpyDeviceToHost, stream_), "pack");
    return status.ok() ? cuda::check(cudaStreamSynchronize(stream_), "pack") : status;
  }

 private:
  cudaStream_t stream_;
  void* data_ = nullptr;
  Status status_;
};

}  // namespace

Status cuda_pack(const IntGroupView& weight, const PackedBuffers& packed,
                 const Executor& executor) {
  const cuda::Guard guard(executor);
  if (!guard.status().ok()) return guard.status();
  const cudaStream_t stream = static_cast<cudaStream_t>(executor.stream);
  const Word32 bad(stream);
  if (!bad.status().ok()) return bad.status();
  uint32_t found = 0;
  Status status = run_pack(weight, packed, bad.data(), cuda::Launcher{stream});
  if (status.ok()) status = bad.read(found);
  if (!status.ok() || !found) return status;
  const std::string limit = std::to_string(1 << weight.shape.bits);
  return Status::invalid("codes: expected codes and zeros below " + limit +
                         " (bits = " + std::to_string(weight.shape.bits) + ")" +
                         (weight.codes.perm ? " and perm in [0, k)" : "") + ", got a larger one");
}

Status cuda_unpack(const PackedIntGroup& packed, uint8_t* codes, void* scales, uint8_t* zeros,
                   const Executor& executor) {
  const cuda::Guard guard(executor);
  if (!guard.status().ok()) return guard.status();
  return run_unpack(packed, codes, scales, zeros,
                    cuda::Launcher{static_cast<cudaStream_t>(executor.stream)});
}

}  // namespace qcore::marlin
