// Weights of block formats in the layout fragment16_blocks, for the host.
#pragma once

#include "kquant/blocks.h"
#include "kquant/layout.h"
#include "qcore/layout.h"

namespace qcore::kquant {

inline Geometry geometry_of(const BlockShape& shape) {
  const Traits traits =
      with_block(*shape.format, [&]<class Block>() { return kquant::traits<Block>(); });
  return {traits, shape.n, shape.k};
}

int64_t packed_bytes(const BlockShape& shape);
Status pack(const BlockShape& shape, const void* blocks, void* packed, const Executor&);
Status unpack(const PackedBlocks& packed, void* blocks, const Executor&);
// In the memory of a GPU: pack.cu. Packed weights are 16-byte aligned there.
Status cuda_pack(const BlockShape& shape, const void* blocks, void* packed, const Executor&);
Status cuda_unpack(const PackedBlocks& packed, void* blocks, const Executor&);

extern const BlockLayout layout;

}  // namespace qcore::kquant
