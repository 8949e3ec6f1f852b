#include "cpu/encode/encode.h"

#include <algorithm>
#include <cstring>

#include "formats/blocks/blocks.h"

namespace qcore::encode {
namespace {

template <class Block>
void write_block(const BlockFit& fit, void* to) {
  Block block{};
  block.codes.set_all(fit.codes);
  block.set_d(fit.d);
  if constexpr (Block::kHasMin) block.set_dmin(fit.dmin);
  for (int g = 0; g < Block::kElements / Block::kGroup; ++g) {
    if constexpr (requires { block.set_group(g, 0, 0); }) {
      block.set_group(g, fit.scales[g], fit.mins[g]);
    } else if constexpr (requires { block.set_group(g, 0); }) {
      block.set_group(g, fit.scales[g]);
    }
  }
  std::memcpy(to, &block, sizeof(Block));
}

struct Encoder {
  CpuFeatures needs;
  const FitBlocks* fits;
};
constexpr Encoder kEncoders[] = {
#if defined(QCORE_X86)
    {features_of(Isa::avx512), avx512::encode::kFitBlocks},
    {features_of(Isa::avx2), avx2::encode::kFitBlocks},
#endif
    {features_of(Isa::scalar), reference::encode::kFitBlocks},
};

const FitBlocks* fit_blocks(CpuFeatures cpu) {
  const Encoder* encoder = kEncoders;
  while (!cpu.has(encoder->needs)) ++encoder;
  return encoder->fits;
}

template <class Block, int Index>
void encode_all(CpuFeatures cpu, const float* w, const float* importance, int64_t count,
                void* blocks) {
  const FitBlocks fit = fit_blocks(cpu)[Index];
  BlockFit fits[kMaxFits];
  char* to = static_cast<char*>(blocks);
  for (int64_t first = 0; first < count; first += kMaxFits) {
    const int n = static_cast<int>(std::min<int64_t>(kMaxFits, count - first));
    const int64_t at = first * Block::kElements;
    fit(w + at, importance ? importance + at : nullptr, n, fits);
    for (int i = 0; i < n; ++i, to += sizeof(Block)) write_block<Block>(fits[i], to);
  }
}

// Positions in blocks.def.
enum : int {
#define QCORE_BLOCK(name, ggml_type, elements, bytes, summary) k##name,
#include "formats/blocks/blocks.def"
#undef QCORE_BLOCK
};

}  // namespace

void encode(const BlockFormat& format, CpuFeatures cpu, const float* w, const float* importance,
            int64_t count, void* blocks) {
  switch (format.ggml_type) {
#define QCORE_BLOCK(name, ggml_type, elements, bytes, summary) \
  case ggml_type: return encode_all<blocks::name, k##name>(cpu, w, importance, count, blocks);
#include "formats/blocks/blocks.def"
#undef QCORE_BLOCK
    default: return;
  }
}

}  // namespace qcore::encode
