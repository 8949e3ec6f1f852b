#include <gtest/gtest.h>

#include "qcore/qcore.h"

namespace qcore {
namespace {

TEST(Formats, AreNamedOnce) {
  for (const Format& format : formats()) EXPECT_EQ(find_format(format.name), &format);
  EXPECT_NE(find_format("int_group"), nullptr);
  for (const BlockFormat& block : block_formats()) EXPECT_NE(find_format(block.name), nullptr);
  EXPECT_EQ(find_format("no_such_format"), nullptr);
}

TEST(Formats, EveryKernelRowNamesOne) {
  for (const KernelRow* row : kernels()) {
    if (!row->layout) continue;                                 // it reads canonical tensors
    if (std::string_view(row->format()) == "blocks") continue;  // any of block_formats()
    EXPECT_NE(find_format(row->format()), nullptr) << row->name;
  }
}

TEST(IntGroup, CheckNamesTheArgumentAndWhatCame) {
  const IntGroup good{.n = 3, .k = 100, .group_size = 100, .bits = 3};
  EXPECT_TRUE(good.check().ok());
  EXPECT_TRUE((IntGroup{.n = 0, .k = 1, .group_size = 1}).check().ok());
  const auto message = [&](auto change) {
    IntGroup shape = good;
    change(shape);
    const Status status = shape.check();
    EXPECT_EQ(status.code(), StatusCode::invalid_argument);
    return status.message();
  };
  EXPECT_EQ(message([](IntGroup& s) { s.bits = 5; }), "bits: expected 2, 3, 4 or 8, got 5");
  EXPECT_EQ(message([](IntGroup& s) { s.group_size = 101; }),
            "group_size: expected 1 .. k (100), got 101");
  EXPECT_EQ(message([](IntGroup& s) { s.group_size = 0; }),
            "group_size: expected 1 .. k (100), got 0");
  EXPECT_NE(message([](IntGroup& s) { s.n = -1; }).find("n: "), std::string::npos);
  EXPECT_NE(message([](IntGroup& s) { s.k = 0; }).find("k: "), std::string::npos);
  EXPECT_NE(message([](IntGroup& s) { s.k = int64_t{1} << 40; }).find("k: "), std::string::npos);
  EXPECT_NE(message([](IntGroup& s) { s.scale_dtype = DType{9}; }).find("scale_dtype: "),
            std::string::npos);
}

TEST(Names, CoverEveryEnumerator) {
  EXPECT_STREQ(name(DType::bf16), "bf16");
  EXPECT_STREQ(name(Device::cuda), "cuda");
  for (const Isa isa : kIsas) EXPECT_STRNE(name(isa), "unknown isa");
  EXPECT_STRNE(version(), "");
}

}  // namespace
}  // namespace qcore
