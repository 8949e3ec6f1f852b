// The codec that a BlockFormat names.
#pragma once

#include "formats/blocks/blocks.h"
#include "qcore/blocks.h"

namespace qcore::kquant {

// Calls f.template operator()<Block>() for the codec of a format and returns what it returns.
template <class F>
auto with_block(const BlockFormat& format, const F& f) {
  switch (format.ggml_type) {
#define QCORE_BLOCK(name, type, elements, bytes, summary) \
  case type: return f.template operator()<blocks::name>();
#include "formats/blocks/blocks.def"
#undef QCORE_BLOCK
    default: return decltype(f.template operator()<blocks::Q4_0>()) {};
  }
}

}  // namespace qcore::kquant
