// Packs blocks into fragment16_blocks in host memory, and back.
#include <cstring>

#include "cuda_built.h"
#include "kquant/packed.h"
#include "kquant/packing.h"

namespace qcore::kquant {
namespace {

// From any address.
struct HostLoad {
  template <class T>
  T operator()(const T* from) const {
    T value;
    std::memcpy(&value, static_cast<const void*>(from), sizeof(value));
    return value;
  }
};

}  // namespace

int64_t packed_bytes(const BlockShape& shape) {
  return shape.check().ok() ? geometry_of(shape).bytes() : 0;
}

Status pack(const BlockShape& shape, const void* blocks, void* packed, const Executor& executor) {
  const Geometry g = geometry_of(shape);
  const int64_t words = g.supers * g.traits.super_bytes() / 4;  // of a panel
  with_block(*shape.format, [&]<class Block>() {
    const auto block_at = [&](int64_t row, int64_t block) -> const Block& {
      return static_cast<const Block*>(blocks)[row * g.blocks_per_row() + block];
    };
    const WordPacker<Block, decltype(block_at)> packer(g, block_at);
    executor.parallel.for_range(g.panels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * words; i < end * words; ++i) {
        const uint32_t word = packer.word(i);
        std::memcpy(static_cast<char*>(packed) + i * 4, &word, 4);
      }
    });
    return true;
  });
  return {};
}

Status unpack(const PackedBlocks& packed, void* blocks, const Executor& executor) {
  const Geometry g = geometry_of(packed.shape);
  with_block(*packed.shape.format, [&]<class Block>() {
    executor.parallel.for_range(g.blocks(), kPanelRows, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        unpack_block(g, packed.data, i, HostLoad{}, static_cast<Block*>(blocks)[i]);
      }
    });
    return true;
  });
  return {};
}

constinit const BlockLayout layout{
    {.number = 4, .name = "fragment16_blocks", .format = "blocks", .device = Device::cuda},
    packed_bytes,
    pack,
    unpack,
#if QCORE_HAVE_CUDA
    cuda_pack,
    cuda_unpack};
#else
    nullptr,
    nullptr};
#endif

}  // namespace qcore::kquant
