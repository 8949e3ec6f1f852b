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

TEST(ScaledWeight, CheckNamesTheArgumentAndWhatCame) {
  const ScaledWeight good{.n = 3, .k = 100, .group_size = 100, .elements = Elements::u3};
  EXPECT_TRUE(good.check().ok());
  EXPECT_TRUE((ScaledWeight{.n = 0, .k = 1, .group_size = 1}).check().ok());
  const auto message = [&](auto change) {
    ScaledWeight shape = good;
    change(shape);
    const Status status = shape.check();
    EXPECT_EQ(status.code(), StatusCode::invalid_argument);
    return status.message();
  };
  EXPECT_EQ(message([](ScaledWeight& s) { s.elements = Elements::s8; }),
            "elements: expected u2, u3, u4, u8, e4m3 or e5m2, got s8");
  EXPECT_EQ(message([](ScaledWeight& s) { s.elements = Elements{99}; }),
            "elements: expected u2, u3, u4, u8, e4m3 or e5m2, got unknown elements");
  EXPECT_EQ(message([](ScaledWeight& s) { s.granularity = Granularity::row; }),
            "granularity: expected group, got row");
  EXPECT_EQ(message([](ScaledWeight& s) { s.elements = Elements::e4m3, s.has_zeros = true; }),
            "has_zeros: expected false, because the codes are floats");
  EXPECT_EQ(message([](ScaledWeight& s) { s.group_size = 101; }),
            "group_size: expected 1 .. k (100), got 101");
  EXPECT_EQ(message([](ScaledWeight& s) { s.group_size = 0; }),
            "group_size: expected 1 .. k (100), got 0");
  EXPECT_NE(message([](ScaledWeight& s) { s.n = -1; }).find("n: "), std::string::npos);
  EXPECT_NE(message([](ScaledWeight& s) { s.k = 0; }).find("k: "), std::string::npos);
  EXPECT_NE(message([](ScaledWeight& s) { s.k = int64_t{1} << 40; }).find("k: "),
            std::string::npos);
  EXPECT_NE(message([](ScaledWeight& s) { s.scale_dtype = DType{9}; }).find("scale_dtype: "),
            std::string::npos);
}

TEST(Elements, ComeFromBits) {
  const auto message = [](int64_t bits, std::optional<Float8> floats, Elements expected) {
    Elements found = Elements::s8;
    const Status status = elements_of_codes(bits, floats, found);
    EXPECT_EQ(status.ok() ? found : expected, expected);
    return status.message();
  };
  EXPECT_EQ(message(3, {}, Elements::u3), "");
  EXPECT_EQ(message(8, {}, Elements::u8), "");
  EXPECT_EQ(message(8, Float8::e5m2, Elements::e5m2), "");
  EXPECT_EQ(message(5, {}, {}), "bits: expected 2, 3, 4 or 8, got 5");
  EXPECT_EQ(message(-1, {}, {}), "bits: expected 2, 3, 4 or 8, got -1");
  EXPECT_EQ(message(4, Float8::e4m3, {}), "bits: expected 8, because the codes are floats, got 4");
}

TEST(Elements, FactsAgree) {
  for (const Float8 type : {Float8::e4m3, Float8::e5m2}) {
    EXPECT_EQ(float8_of(elements_of(type)), type);
    EXPECT_STREQ(name(elements_of(type)), name(type));
    EXPECT_EQ(bits_of(elements_of(type)), 8);
    EXPECT_FALSE(takes_zeros(elements_of(type)));
  }
  for (const int bits : {2, 3, 4, 8}) {
    const Elements integers = unsigned_of(bits).value();
    EXPECT_EQ(bits_of(integers), bits);
    EXPECT_EQ(center_of(integers), 1 << (bits - 1));
    EXPECT_TRUE(takes_zeros(integers));
    EXPECT_FALSE(is_float(integers));
  }
  EXPECT_EQ(center_of(Elements::s8), 0);
  EXPECT_FALSE(takes_zeros(Elements::s8));
}

TEST(Names, CoverEveryEnumerator) {
  for (const Granularity g :
       {Granularity::tensor, Granularity::row, Granularity::group, Granularity::block}) {
    EXPECT_STRNE(name(g), "unknown granularity");
  }
  EXPECT_STREQ(name(DType::bf16), "bf16");
  EXPECT_STREQ(name(Device::cuda), "cuda");
  for (const Isa isa : kIsas) EXPECT_STRNE(name(isa), "unknown isa");
  EXPECT_STRNE(version(), "");
}

}  // namespace
}  // namespace qcore
