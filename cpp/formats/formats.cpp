#include "qcore/formats.h"

#include <string>

namespace qcore {
namespace {

constexpr Format kFormats[] = {
#define QCORE_FORMAT(name, summary) {#name, summary},
#include "formats/formats.def"
#undef QCORE_FORMAT
#define QCORE_BLOCK(name, ggml_type, elements, bytes, summary) {#name, summary},
#include "formats/blocks/blocks.def"
#undef QCORE_BLOCK
};

// Bounds n and k so that every size derived from them fits in int64_t: padding a group to 32
// columns can enlarge k 32 times, and 2^31 * 2^26 * 32 codes of 8 bits are 2^62 bytes.
constexpr int64_t kMaxRows = (int64_t{1} << 31) - 1;
constexpr int64_t kMaxColumns = (int64_t{1} << 26);

Status bad(const char* argument, const std::string& expected, int64_t got) {
  return Status::invalid(std::string(argument) + ": expected " + expected + ", got " +
                         std::to_string(got));
}

}  // namespace

std::span<const Format> formats() {
  return kFormats;
}

const Format* find_format(std::string_view name) {
  for (const Format& format : kFormats) {
    if (name == format.name) return &format;
  }
  return nullptr;
}

Status ScaledWeight::check() const {
  if (n < 0 || n > kMaxRows) return bad("n", "0 .. " + std::to_string(kMaxRows), n);
  if (k < 1 || k > kMaxColumns) return bad("k", "1 .. " + std::to_string(kMaxColumns), k);
  if (group_size < 1 || group_size > k) {
    return bad("group_size", "1 .. k (" + std::to_string(k) + ")", group_size);
  }
  if (scale_dtype != DType::f32 && scale_dtype != DType::f16 && scale_dtype != DType::bf16) {
    return bad("scale_dtype", "f32, f16 or bf16", static_cast<int64_t>(scale_dtype));
  }
  if (!takes_zeros(elements) && !is_float(elements)) {
    return Status::invalid(std::string("elements: expected u2, u3, u4, u8, e4m3 or e5m2, got ") +
                           name(elements));
  }
  if (granularity != Granularity::group) {
    return Status::invalid(std::string("granularity: expected group, got ") + name(granularity));
  }
  if (has_zeros && !takes_zeros(elements)) {
    return Status::invalid("has_zeros: expected false, because the codes are floats");
  }
  return check_experts(experts, n);
}

Status elements_of_codes(int64_t bits, std::optional<Float8> floats, Elements& elements) {
  const std::optional<Elements> integers = unsigned_of(bits);
  if (!integers) return bad("bits", "2, 3, 4 or 8", bits);
  elements = floats ? elements_of(*floats) : *integers;
  if (bits_of(elements) == bits) return {};
  return bad("bits", std::to_string(bits_of(elements)) + ", because the codes are floats", bits);
}

Status check_experts(int64_t experts, int64_t n) {
  const int64_t most = kMaxRows / (n > 1 ? n : 1);
  if (experts >= 1 && experts <= most) return {};
  return bad("experts", "1 .. " + std::to_string(most) + ", of " + std::to_string(n) + " rows each",
             experts);
}

Status CodeSource::check(const ScaledWeight& shape) const {
  if (order != CodeOrder::plain && shape.experts != 1) {
    return bad("experts", "1 for codes in an order other than plain", shape.experts);
  }
  if (order != CodeOrder::awq) return {};
  if (shape.elements != Elements::u4)
    return bad("bits", "4, the only ones that AWQ checkpoints have", shape.bits());
  if (shape.n % 8 != 0) return bad("n", "a multiple of 8 for codes in the order of AWQ", shape.n);
  return {};
}

}  // namespace qcore
