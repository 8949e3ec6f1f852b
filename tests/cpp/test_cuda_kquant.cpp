// The CUDA rows of op "kquant" on a GPU, through the public API alone. Skipped where there is none:
// there the emulated tests (test_kquant_cuda) run the same kernels.
#include "device_memory.h"
#include "kquant_gpu_cases.h"

namespace qcore {
namespace {

using namespace testing;

class CudaKquant : public OnStream<::testing::TestWithParam<const Row<Kquant>*>> {
 protected:
  Executor executor() const { return Executor(0, stream_); }

  std::vector<char> multiply(const KquantData& data) {
    const Row<Kquant>& row = *GetParam();
    const DeviceMemory x(data.x.bytes), weight(data.pack(row.weight_layout()).data),
        bias(data.bias.bytes);
    const DeviceMemory y(
        static_cast<size_t>(data.shape.m * data.shape.weight.n * size_of(data.shape.dtype)));
    KquantArgs args =
        data.args({data.shape.weight, row.layout->number, weight.data<char>()}, y.data<char>());
    args.x = x.data<char>();
    if (args.bias) args.bias = bias.data<char>();
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
};

TEST_P(CudaKquant, IsCloseToTheExactProduct) {
  Rng rng = fresh_rng(71);
  for (const BlockFormat& format : block_formats()) {
    for (int i = 0; i < 12; ++i) {
      const KquantData data = random_data(kquant_gpu_case(format, rng), rng);
      expect_exact(data, multiply(data).data(), GetParam()->name);
      if (HasFailure()) return;
    }
  }
}

TEST_P(CudaKquant, PacksTheBytesOfTheHost) {
  Rng rng = fresh_rng(72);
  const BlockLayout& layout = GetParam()->weight_layout();
  for (const BlockFormat& format : block_formats()) {
    const BlockShape shape{&format, uniform(rng, 1, 300), format.elements * uniform(rng, 1, 9)};
    const std::vector<uint8_t> bytes = random_bytes(shape.bytes(), rng);
    std::vector<uint8_t> host(static_cast<size_t>(layout.packed_bytes(shape)));
    ASSERT_TRUE(pack(layout, shape, bytes.data(), host.data(), {}).ok());
    const DeviceMemory blocks(bytes), packed(host.size()), back(bytes.size());
    ASSERT_TRUE(pack(layout, shape, blocks.data<char>(), packed.data<char>(), executor()).ok());
    ASSERT_TRUE(
        unpack({shape, layout.number, packed.data<char>()}, back.data<char>(), executor()).ok());
    QCORE_CUDA_OK(cudaStreamSynchronize(stream_));
    EXPECT_EQ(packed.values<uint8_t>(), host) << format.name;
    EXPECT_EQ(back.values<uint8_t>(), bytes) << format.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Kquant, CudaKquant, ::testing::ValuesIn(rows_on<Kquant>(Device::cuda)),
                         [](const auto& row) { return std::string(row.param->name); });

}  // namespace
}  // namespace qcore
