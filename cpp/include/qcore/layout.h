// Packed layouts: how the kernels of one family want a weight to lie in memory. Every layout can be
// packed and unpacked in host memory, whatever device will read it; what goes in comes out again,
// bit for bit.
//
// A packed weight [E, N, K] is E packed weights [N, K] side by side, whatever the layout: a
// layout's own functions know one expert, those at the end of this file know all.
#pragma once

#include <cstdint>
#include <span>

#include "qcore/blocks.h"
#include "qcore/executor.h"
#include "qcore/export.h"
#include "qcore/formats.h"
#include "qcore/status.h"
#include "qcore/types.h"

namespace QCORE_API qcore {

// An int_group weight in the layout of one kernel family. Each buffer holds one expert after the
// other, without gaps.
struct PackedScaled {
  ScaledWeight shape;
  int layout = 0;                  // its number
  const void* qweight = nullptr;   // codes
  const void* scales = nullptr;    // shape.scale_dtype
  const uint8_t* zeros = nullptr;  // null if symmetric
};

// How large the buffers of a packed weight are.
struct PackedSizes {
  int64_t qweight_bytes = 0;
  int64_t scales = 0;  // elements of shape.scale_dtype
  int64_t zeros = 0;   // bytes, 0 if symmetric
};

// What is packed: codes, scales [N, G] and zeros [N, G] (null if symmetric), contiguous; of experts
// [E, N, K] and [E, N, G].
struct ScaledView {
  ScaledWeight shape;
  CodeSource codes;
  const void* scales = nullptr;
  const uint8_t* zeros = nullptr;
};

// Where packing writes.
struct PackedBuffers {
  void* qweight = nullptr;
  void* scales = nullptr;
  uint8_t* zeros = nullptr;
};

// What is listed of every layout.
struct Layout {
  int number;
  const char* name;
  const char* format;  // "int_group", or "blocks": any of block_formats()
  Device device;       // whose kernels read it
};

struct ScaledLayout : Layout {  // of one expert
  using Pack = Status (*)(const ScaledView&, const PackedBuffers&, const Executor&);
  using Unpack = Status (*)(const PackedScaled&, uint8_t* codes, void* scales, uint8_t* zeros,
                            const Executor&);

  PackedSizes (*packed_sizes)(const ScaledWeight&);
  Pack pack;  // these rely on the checks of the functions below
  Unpack unpack;
  Pack cuda_pack;  // in the memory of a GPU; null if there is none
  Unpack cuda_unpack;
};

// A weight in a block format, in the layout of one kernel family. Experts begin expert_bytes()
// apart.
struct PackedBlocks {
  BlockShape shape;
  int layout = 0;  // its number
  const void* data = nullptr;
};

// Of any block format, of one expert.
struct BlockLayout : Layout {
  using Pack = Status (*)(const BlockShape&, const void* blocks, void* packed, const Executor&);
  using Unpack = Status (*)(const PackedBlocks&, void* blocks, const Executor&);

  int64_t (*packed_bytes)(const BlockShape&);
  Pack pack;  // these rely on the checks of the functions below
  Unpack unpack;
  Pack cuda_pack;  // in the memory of a GPU; null if there is none
  Unpack cuda_unpack;
};

std::span<const Layout* const> layouts();
std::span<const ScaledLayout* const> scaled_layouts();
std::span<const BlockLayout* const> block_layouts();
// Null if there is none of that number, or it is of another format.
const Layout* find_layout(int64_t number);
const ScaledLayout* find_scaled_layout(int64_t number);
const BlockLayout* find_block_layout(int64_t number);

// How large a packed weight is, with all of its experts; nothing if the shape fails its check().
PackedSizes packed_sizes(const ScaledLayout& layout, const ScaledWeight& shape);
int64_t packed_bytes(const BlockLayout& layout, const BlockShape& shape);
// From one expert to the next: whole cache lines, and so many that their number tells the layout.
int64_t expert_bytes(const BlockLayout& layout, const BlockShape& shape);

// One expert of a packed weight; `sizes` are those of one.
PackedScaled expert_of(const PackedScaled& weight, const PackedSizes& sizes, int64_t expert);

// Check their arguments, then run in the memory that executor.device names. In the memory of a GPU
// packing waits for the result, because a code may turn out to be too large.
Status pack(const ScaledLayout& layout, const ScaledView& weight, const PackedBuffers& packed,
            const Executor& executor);
Status unpack(const PackedScaled& packed, uint8_t* codes, void* scales, uint8_t* zeros,
              const Executor& executor);

// Blocks [N, K / elements] or [E, N, K / elements], of any alignment.
Status pack(const BlockLayout& layout, const BlockShape& shape, const void* blocks, void* packed,
            const Executor& executor);
Status unpack(const PackedBlocks& packed, void* blocks, const Executor& executor);

}  // namespace QCORE_API qcore
