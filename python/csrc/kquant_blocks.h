// What the kquant ops share: checks of types and blocks.
#pragma once

#include <string>

#include "tensors.h"

namespace qcore::binding {

// The format of the type, if rows of k elements are whole blocks of it.
const BlockFormat& find_format(const char* op, const std::string& type, int64_t k);

void check_blocks(const char* op, const BlockFormat& format, int64_t k, const Tensor& blocks);

// A packed weight is uint8 [bytes + the number of the layout]. Packed bytes are a multiple of 16,
// so that the size says the layout, and with it the device whose kernels can read it. That of
// experts is uint8 [E, expert_bytes()], which say it too.
int64_t packed_elements(const BlockLayout& layout, const BlockShape& shape);

}  // namespace qcore::binding
