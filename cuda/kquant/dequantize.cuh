// Blocks as GGUF files hold them to their elements, in the memory of a GPU.
//
// A block of 18 or 210 bytes suits no wide load, but 16 blocks of any format are a multiple of 16
// bytes. So a block of threads copies the bytes of kTileElements elements to shared memory, 16
// bytes at a time, and each thread decodes eight neighbouring elements from there, by the codec
// that the CPU uses, and stores them 16 bytes at a time.
#pragma once

#include "kquant/rows.h"
#include "tile/scalars.cuh"

namespace qcore::kquant {

template <class Block>
struct Dequantize {
  using Params = DequantizeParams;
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 6;
  static constexpr int kTileElements = 4096;
  static constexpr int kTileBlocks = kTileElements / Block::kElements;
  static constexpr int kBlockBytes = static_cast<int>(sizeof(Block));
  static constexpr int kTileBytes = kTileBlocks * kBlockBytes;
  static_assert(kTileBytes % 16 == 0);

  static int64_t tiles(int64_t count) { return ceil_div(count, kTileBlocks); }

  QCORE_DEVICE static void run(const Params& p) {
    const ptx::SharedAddress base = ptx::shared_base();
    const int64_t first = static_cast<int64_t>(ptx::block_index()) * kTileBlocks;
    const int count = static_cast<int>(min(static_cast<int64_t>(kTileBlocks), p.count - first));
    const char* const from = static_cast<const char*>(p.blocks) + first * kBlockBytes;
    for (int at = ptx::thread_index() * 16; at < count * kBlockBytes; at += kThreads * 16) {
      ptx::copy_async_16(base + static_cast<uint32_t>(at), from + at,
                         min(16, count * kBlockBytes - at));
    }
    ptx::copy_async_commit();
    ptx::copy_async_wait<0>();
    ptx::sync_block();

    constexpr int kEights = Block::kElements / 8;
    QCORE_NO_UNROLL
    for (int i = 0; i < kTileElements / 8 / kThreads; ++i) {
      const int eight = i * kThreads + ptx::thread_index();
      const int block = eight / kEights;
      if (block >= count) break;
      float value[8];
      decode(base + static_cast<uint32_t>(block * kBlockBytes), eight % kEights * 8, value);
      store(p, first * kEights + eight, value);
    }
  }

 private:
  // Elements first .. first + 7, which share a group; rounded after each operation.
  QCORE_DEVICE static void decode(ptx::SharedAddress at, int first, float (&value)[8]) {
    const Block& block = ptx::shared_object<Block>(at);
    const int g = first / Block::kGroup;
    const float scale = ptx::multiply(block.d(), static_cast<float>(block.group_scale(g)));
    const float minimum = ptx::multiply(block.dmin(), static_cast<float>(block.group_min(g)));
    QCORE_UNROLL
    for (int j = 0; j < 8; ++j) {
      value[j] = ptx::multiply(scale, static_cast<float>(Block::value(block.code(first + j))));
      if constexpr (Block::kHasMin) value[j] -= minimum;
    }
  }

  QCORE_DEVICE static void store(const Params& p, int64_t eight, const float (&value)[8]) {
    if (p.dtype == DType::f32) {
      store_8_floats(static_cast<float*>(p.out) + eight * 8, value);
      return;
    }
    ptx::Vec16 bits;
    QCORE_UNROLL
    for (int j = 0; j < 4; ++j) {
      bits.word[j] = p.dtype == DType::f16
                         ? ptx::pack2<ptx::Half>(value[2 * j], value[2 * j + 1])
                         : ptx::pack2<ptx::Bfloat>(value[2 * j], value[2 * j + 1]);
    }
    ptx::store_global(static_cast<ptx::Vec16*>(p.out) + eight, bits);
  }
};

}  // namespace qcore::kquant
