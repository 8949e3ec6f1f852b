#include "kquant_blocks.h"

namespace qcore::binding {
namespace {

const BlockFormat& find_type(const char* op, const std::string& type) {
  const BlockFormat* format = find_block_format(type);
  if (!format) {
    std::string names;
    for (const BlockFormat& known : block_formats()) {
      names += names.empty() ? "" : ", ";
      names += known.name;
    }
    check(false, op, "type must be one of ", names, ", got ", type);
  }
  return *format;
}

}  // namespace

const BlockFormat& find_format(const char* op, const std::string& type, int64_t k) {
  const BlockFormat& format = find_type(op, type);
  check(k > 0 && k % format.elements == 0, op, "k must be a positive multiple of ", format.elements,
        ", the elements of a block of ", type, ", got ", k);
  return format;
}

void check_blocks(const char* op, const BlockFormat& format, int64_t k, const Tensor& blocks) {
  // A row may have so many elements that its bytes overflow; a tensor cannot.
  check(blocks.scalar_type() == ScalarType::Byte && blocks.dim() >= 1 &&
            blocks.size(-1) % format.bytes == 0 &&
            blocks.size(-1) / format.bytes == k / format.elements,
        op, "blocks must be uint8 [..., k / ", format.elements, " * ", format.bytes,
        "] for type=", format.name, " k=", k, ", got ", describe(blocks));
}

int64_t packed_elements(const BlockLayout& layout, const BlockShape& shape) {
  const int64_t bytes = layout.packed_bytes(shape);
  check(bytes % 16 == 0 && layout.number < 16, "kquant_pack", "layout ", layout.name, " has ",
        bytes, " bytes, which do not tell its number");
  return bytes + layout.number;
}

}  // namespace qcore::binding
