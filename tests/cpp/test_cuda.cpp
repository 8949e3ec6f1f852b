// The CUDA rows on a GPU, through the public API alone. Skipped where there is none: there the
// emulated tests (test_w4a16_cuda) run the same kernels.
#include "device_memory.h"
#include "gpu_cases.h"

namespace qcore {
namespace {

using namespace testing;

class Cuda : public OnStream<::testing::TestWithParam<const Row<W4A16>*>> {
 protected:
  // A row for one card alone is skipped on others.
  void SetUp() override {
    OnStream::SetUp();
    if (IsSkipped()) return;
    W4A16::Problem problem{.device = Device::cuda, .dtype = DType::bf16, .sm = present_sm()};
    problem.weight = {.n = 64, .k = 64, .group_size = 64};
    const Status status = GetParam()->supports(problem);
    if (!status.ok()) GTEST_SKIP() << GetParam()->name << " " << status.message();
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
};

TEST_P(Cuda, IsCloseToTheExactProduct) {
  Rng rng = fresh_rng(51);
  for (int i = 0; i < 150; ++i) {
    const GemmData data = random_data(gpu_case(rng), rng);
    const bool batch_invariant = i % 3 == 0;
    if (!GetParam()
             ->supports({.device = Device::cuda,
                         .dtype = data.shape.dtype,
                         .m = data.shape.m,
                         .weight = data.weight.shape,
                         .sm = present_sm(),
                         .batch_invariant = batch_invariant})
             .ok()) {
      continue;
    }
    expect_exact(data, multiply(data, batch_invariant).data(), GetParam()->name);
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
  const ScaledLayout& layout = GetParam()->weight_layout();
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
  Weight w = random_weight({.n = 20, .k = 70, .group_size = 30, .elements = Elements::u3}, rng);
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
