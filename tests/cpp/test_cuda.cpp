// The CUDA rows on a GPU, through the public API alone. Skipped where there is none: there the
// emulated tests (test_marlin) run the same kernels.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "gpu_cases.h"

namespace qcore {
namespace {

using namespace testing;

bool has_gpu() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

#define QCORE_CUDA_OK(call) ASSERT_EQ(call, cudaSuccess) << cudaGetErrorString(cudaGetLastError())

// A copy of host memory on the GPU, or memory filled with 0xff (NaN).
class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes) : bytes_(bytes) {
    EXPECT_EQ(cudaMalloc(&data_, bytes + 1), cudaSuccess);
    EXPECT_EQ(cudaMemset(data_, 0xff, bytes + 1), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);  // the tests' stream does not wait for it
  }
  template <class T>
  explicit DeviceMemory(const std::vector<T>& from) : DeviceMemory(from.size() * sizeof(T)) {
    EXPECT_EQ(cudaMemcpy(data_, from.data(), bytes_, cudaMemcpyHostToDevice), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
  ~DeviceMemory() { static_cast<void>(cudaFree(data_)); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  template <class T>
  T* data() const {
    return static_cast<T*>(data_);
  }
  template <class T>
  std::vector<T> values() const {
    std::vector<T> host(bytes_ / sizeof(T));
    EXPECT_EQ(cudaMemcpy(host.data(), data_, bytes_, cudaMemcpyDeviceToHost), cudaSuccess);
    return host;
  }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

class Cuda : public ::testing::TestWithParam<const Row<W4A16>*> {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "no GPU";
    QCORE_CUDA_OK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }
  void TearDown() override {
    if (stream_) static_cast<void>(cudaStreamDestroy(stream_));
  }
  Executor executor() const { return Executor(0, stream_); }

  std::vector<char> multiply(const GemmData& data, bool batch_invariant = false) {
    const Row<W4A16>& row = *GetParam();
    const Packed packed = pack(row, data.weight);
    const DeviceMemory x(data.x.bytes), qweight(packed.qweight), scales(packed.scales),
        zeros(packed.zeros), perm(data.perm), bias(data.bias.bytes);
    const DeviceMemory y(
        static_cast<size_t>(data.shape.m * data.shape.weight.n * size_of(data.shape.dtype)));
    W4A16Args args = data.args(packed.view, y.data<char>());
    args.x = x.data<char>();
    args.weight.qweight = qweight.data<char>();
    args.weight.scales = scales.data<char>();
    if (args.weight.zeros) args.weight.zeros = zeros.data<uint8_t>();
    if (args.perm) args.perm = perm.data<int32_t>();
    if (args.bias) args.bias = bias.data<char>();
    args.batch_invariant = batch_invariant;
    int64_t bytes = 0;
    if (row.workspace_bytes) {
      const Status status = row.workspace_bytes(args, executor(), bytes);
      EXPECT_TRUE(status.ok()) << status.message();
    }
    const DeviceMemory workspace(static_cast<size_t>(bytes));
    args.workspace = workspace.data<char>();
    const Status status = row.run(args, executor());
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess) << describe(data.shape);
    return y.values<char>();
  }

 private:
  cudaStream_t stream_ = nullptr;
};

TEST_P(Cuda, IsCloseToTheExactProduct) {
  Rng rng = fresh_rng(51);
  for (int i = 0; i < 150; ++i) {
    const GemmData data = random_data(gpu_case(rng), rng);
    if (!GetParam()
             ->supports({.device = Device::cuda,
                         .dtype = data.shape.dtype,
                         .m = data.shape.m,
                         .weight = data.weight.shape})
             .ok()) {
      continue;
    }
    expect_exact(data, multiply(data, i % 3 == 0).data(), GetParam()->name);
    if (HasFailure()) return;
  }
}

TEST_P(Cuda, LargeProducts) {
  Rng rng = fresh_rng(52);
  for (const int64_t m : {1, 16, 33, 200}) {
    Case c{.weight = {.n = 1500, .k = 4096, .group_size = 128}, .m = m, .dtype = DType::bf16};
    c.weight.scale_dtype = DType::bf16;
    const GemmData data = random_data(c, rng);
    expect_exact(data, multiply(data).data(), GetParam()->name);
    if (HasFailure()) return;
  }
}

TEST_P(Cuda, PacksTheBytesOfTheHost) {
  Rng rng = fresh_rng(53);
  const IntGroupLayout& layout = GetParam()->weight_layout();
  for (int i = 0; i < 20; ++i) {
    const Weight w = random_weight(random_case(rng).weight, rng);
    const Packed host = pack(layout, w);
    const DeviceMemory codes(w.codes), scales(w.scales.bytes), zeros(w.zeros);
    const DeviceMemory qweight(host.qweight.size()), packed_scales(host.scales.size()),
        packed_zeros(host.zeros.size());
    const bool has_zeros = w.shape.has_zeros;
    uint8_t* const zeros_to = has_zeros ? packed_zeros.data<uint8_t>() : nullptr;
    const Status status =
        qcore::pack(layout,
                    {w.shape,
                     {codes.data<char>()},
                     scales.data<char>(),
                     has_zeros ? zeros.data<uint8_t>() : nullptr},
                    {qweight.data<char>(), packed_scales.data<char>(), zeros_to}, executor());
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(qweight.values<char>(), host.qweight);
    EXPECT_EQ(packed_scales.values<char>(), host.scales);
    EXPECT_EQ(packed_zeros.values<uint8_t>(), host.zeros);
  }
}

TEST_P(Cuda, PackReportsABadCode) {
  Rng rng = fresh_rng(54);
  Weight w = random_weight({.n = 20, .k = 70, .group_size = 30, .bits = 3}, rng);
  w.codes[700] = 8;
  const PackedSizes sizes = GetParam()->weight_layout().packed_sizes(w.shape);
  const DeviceMemory codes(w.codes), scales(w.scales.bytes),
      qweight(static_cast<size_t>(sizes.qweight_bytes)),
      packed_scales(static_cast<size_t>(sizes.scales) * 4);
  const Status status =
      qcore::pack(GetParam()->weight_layout(), {w.shape, {codes.data<char>()}, scales.data<char>()},
                  {qweight.data<char>(), packed_scales.data<char>()}, executor());
  EXPECT_EQ(status.code(), StatusCode::invalid_argument);
  EXPECT_EQ(status.message().substr(0, 6), "codes:") << status.message();
}

INSTANTIATE_TEST_SUITE_P(W4A16, Cuda, ::testing::ValuesIn(rows_on<W4A16>(Device::cuda)),
                         [](const auto& row) { return std::string(row.param->name); });

}  // namespace
}  // namespace qcore
