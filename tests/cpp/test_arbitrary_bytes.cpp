// Blocks and activations of any bits, as a damaged file holds them: nothing may be read or written
// outside, no integer overflow, no conversion of a float that does not fit. Under the preset
// "asan" the sanitizers watch; every buffer is a heap block of the exact size. Each case has
// a seed of its own, which a failure prints; QCORE_FUZZ_SECONDS is the time for each format.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "kquant_cases.h"

namespace qcore {
namespace {

using namespace testing;

// Exactly so many bytes from the heap, so that a sanitizer sees the first one too many.
class Bytes {
 public:
  explicit Bytes(int64_t size) : size_(static_cast<size_t>(size)), data_(new uint8_t[size_]) {}
  uint8_t* get() const { return data_.get(); }
  size_t size() const { return size_; }
  bool operator==(const Bytes& other) const {
    return size_ == other.size_ && std::memcmp(get(), other.get(), size_) == 0;
  }

  // Random bits, with runs of the bytes that integers and floats have at the ends of their range.
  void fill(Rng& rng) {
    const bool edges = uniform(rng, 0, 2) == 0;
    for (size_t i = 0; i < size_; ++i) {
      data_[i] = edges ? pick<uint8_t>(rng, {0x00, 0xff, 0x80, 0x7f, 0x7c, 0xfc, 0x01, 0x08})
                       : static_cast<uint8_t>(rng());
    }
  }

 private:
  size_t size_;
  std::unique_ptr<uint8_t[]> data_;
};

// The same number, or both none.
bool same(DType dtype, const Bytes& a, const Bytes& b, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float p = load_scalar(dtype, a.get(), i), q = load_scalar(dtype, b.get(), i);
    if (!(p == q || (std::isnan(p) && std::isnan(q)))) return false;
  }
  return true;
}

void decode_and_join(const BlockShape& shape, const Bytes& blocks, Rng& rng) {
  const BlockFormat& format = *shape.format;
  const int64_t count = shape.n * shape.blocks_per_row(), elements = count * format.elements;
  const DType dtype = pick(rng, {DType::f32, DType::f16, DType::bf16});
  Bytes decoded(elements * size_of(dtype));
  ASSERT_TRUE(decode_blocks(format, blocks.get(), count, dtype, decoded.get(), {}).ok());

  Bytes codes(elements);
  const auto groups = static_cast<size_t>(elements / format.group);
  const std::unique_ptr<float[]> scales(new float[groups]), mins(new float[groups]);
  ASSERT_TRUE(
      split_blocks(format, blocks.get(), count, codes.get(), scales.get(), mins.get(), {}).ok());
  for (size_t i = 0; i < codes.size(); ++i) ASSERT_LT(codes.get()[i], format.codes);
  Bytes joined(shape.bytes());
  std::memcpy(joined.get(), blocks.get(), blocks.size());
  ASSERT_TRUE(join_blocks(format, joined.get(), count, codes.get(), {}).ok());
  ASSERT_TRUE(joined == blocks);
}

void pack_and_multiply(const BlockShape& shape, const Bytes& blocks, Rng& rng) {
  const int64_t m = uniform(rng, 1, 20), stride = shape.k + uniform(rng, 0, 3);
  const DType dtype = pick(rng, {DType::f32, DType::f16, DType::bf16});
  Bytes x((m * stride - (stride - shape.k)) * size_of(dtype)), bias(shape.n * size_of(dtype));
  x.fill(rng);
  bias.fill(rng);
  const bool floats = uniform(rng, 0, 3) == 0;
  std::unique_ptr<Bytes> expected;
  for (const auto* row : runnable_rows<Kquant>()) {
    const BlockLayout& layout = row->weight_layout();
    Bytes packed(layout.packed_bytes(shape)), unpacked(shape.bytes());
    ASSERT_TRUE(pack(layout, shape, blocks.get(), packed.get(), {}).ok());
    const PackedBlocks weight{shape, layout.number, packed.get()};
    ASSERT_TRUE(unpack(weight, unpacked.get(), {}).ok());
    ASSERT_TRUE(unpacked == blocks) << layout.name;

    auto y = std::make_unique<Bytes>(m * shape.n * size_of(dtype));
    const KquantArgs args{.m = m,
                          .dtype = dtype,
                          .x = x.get(),
                          .x_stride = stride,
                          .weight = weight,
                          .bias = bias.get(),
                          .y = y->get(),
                          .float_activations = floats};
    ASSERT_TRUE(row->run(args, {}).ok()) << row->name;
    if (expected) {
      ASSERT_TRUE(same(dtype, *expected, *y, m * shape.n)) << row->name;
    }
    expected = std::move(y);
  }
}

class EveryFormat : public ::testing::TestWithParam<const BlockFormat*> {};

TEST_P(EveryFormat, StaysInBounds) {
  const char* seconds = std::getenv("QCORE_FUZZ_SECONDS");
  const auto end = std::chrono::steady_clock::now() +
                   std::chrono::duration<double>(seconds ? std::atof(seconds) : 0.5);
  // At least so many cases, however slow the build; from the same seeds each time.
  for (uint32_t seed = 0; seed < 20 || std::chrono::steady_clock::now() < end; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Rng rng(seed);
    const int64_t per_row = uniform(rng, 1, GetParam()->elements == 32 ? 9 : 3);
    const BlockShape shape{GetParam(), uniform(rng, 1, 40), per_row * GetParam()->elements};
    Bytes blocks(shape.bytes());
    blocks.fill(rng);
    decode_and_join(shape, blocks, rng);
    pack_and_multiply(shape, blocks, rng);
    if (HasFatalFailure()) return;
  }
}

std::vector<const BlockFormat*> formats() {
  std::vector<const BlockFormat*> found;
  for (const BlockFormat& format : block_formats()) found.push_back(&format);
  return found;
}

INSTANTIATE_TEST_SUITE_P(ArbitraryBytes, EveryFormat, ::testing::ValuesIn(formats()),
                         [](const auto& test) { return std::string(test.param->name); });

}  // namespace
}  // namespace qcore
