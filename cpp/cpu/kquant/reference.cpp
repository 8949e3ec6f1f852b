// The row that takes every problem on every machine: block16 read through the codecs, one product
// at a time.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <new>

#include "cpu/kquant/kernels.h"
#include "cpu/layouts/block16.h"
#include "formats/blocks/blocks.h"
#include "numerics/float16.h"
#include "numerics/float_mode.h"

namespace qcore::reference {
namespace {

template <class T>
std::unique_ptr<T[]> allocate(int64_t count) {
  return std::unique_ptr<T[]>(new (std::nothrow) T[static_cast<size_t>(count)]);
}

// Block `b` of row n.
void load_block(const PackedBlocks& weight, const block16::Geometry& g,
                const block16::Fields& fields, int64_t n, int64_t b, uint8_t* block) {
  const int64_t panel = n / block16::kRows, r = n % block16::kRows;
  const char* data = static_cast<const char*>(weight.data);
  const char* dwords = data + g.dwords_at(panel, b) + 4 * r;
  for (int i = 0; i < fields.dwords; ++i) {
    std::memcpy(block + fields.offset[static_cast<size_t>(i)],
                dwords + int64_t{4} * block16::kRows * i, 4);
  }
  std::memcpy(block + fields.rest_offset, data + g.rest_at(panel, b) + fields.rest * r,
              static_cast<size_t>(fields.rest));
}

// A block of one row of x, in 8 bits.
struct Quantized {
  int q[kMaxBlockElements];
  float scale;
};

void quantize(const float* x, int elements, Quantized& out) {
  float amax = 0;
  bool finite = true;
  for (int i = 0; i < elements; ++i) {
    finite = finite && std::isfinite(x[i]);
    amax = std::max(amax, std::abs(x[i]));
  }
  const float inverse = amax >= kLeastAmax ? 127.0f / amax : 0.0f;
  for (int i = 0; i < elements; ++i) {
    out.q[i] = finite ? static_cast<int>(std::nearbyint(x[i] * inverse)) : 0;
  }
  out.scale = finite ? amax / 127.0f : std::numeric_limits<float>::quiet_NaN();
}

// A block of one row of the weight, as its codec shows it.
template <class Block>
struct Integers {
  static constexpr int kGroups = Block::kElements / Block::kGroup;
  int values[Block::kElements];
  int scales[kGroups], mins[kGroups];
  float d, dmin;

  explicit Integers(const Block& block) : d(block.d()), dmin(block.dmin()) {
    for (int i = 0; i < Block::kElements; ++i) values[i] = Block::value(block.code(i));
    for (int g = 0; g < kGroups; ++g) {
      scales[g] = block.group_scale(g);
      mins[g] = block.group_min(g);
    }
  }

  float add_products(const Quantized& x, float acc) const {
    int64_t dot = 0, min = 0;
    for (int g = 0; g < kGroups; ++g) {
      int64_t products = 0, sum = 0;
      for (int i = g * Block::kGroup; i < (g + 1) * Block::kGroup; ++i) {
        products += values[i] * x.q[i];
        sum += x.q[i];
      }
      dot += scales[g] * products;
      min += mins[g] * sum;
    }
    acc = std::fma(static_cast<float>(dot) * x.scale, d, acc);
    return Block::kHasMin ? std::fma(static_cast<float>(min) * x.scale, -dmin, acc) : acc;
  }
};

// The rows of y that one row n of the weight gives; sums [M].
struct Call {
  const KquantArgs& args;
  block16::Geometry geometry;
  block16::Fields fields;
  const float* x;              // [M, K]
  const Quantized* quantized;  // [M, blocks], or null

  void finish(int64_t n, const float* sums) const {
    for (int64_t m = 0; m < args.m; ++m) {
      const float y = args.bias ? sums[m] + load_scalar(args.dtype, args.bias, n) : sums[m];
      store_scalar(args.dtype, args.y, m * geometry.n + n, y);
    }
  }
};

template <class Block>
void run_row(const Call& call, int64_t n, float* sums) {
  const block16::Geometry& g = call.geometry;
  std::fill(sums, sums + call.args.m, 0.0f);
  for (int64_t b = 0; b < g.blocks; ++b) {
    Block block;
    load_block(call.args.weight, g, call.fields, n, b, reinterpret_cast<uint8_t*>(&block));
    if (call.quantized) {
      const Integers<Block> integers(block);
      for (int64_t m = 0; m < call.args.m; ++m) {
        sums[m] = integers.add_products(call.quantized[m * g.blocks + b], sums[m]);
      }
    } else {
      float w[Block::kElements];
      call.args.weight.shape.format->decode(&block, 1, w);
      for (int64_t m = 0; m < call.args.m; ++m) {
        const float* x = call.x + (m * g.blocks + b) * Block::kElements;
        for (int i = 0; i < Block::kElements; ++i) sums[m] = std::fma(x[i], w[i], sums[m]);
      }
    }
  }
  call.finish(n, sums);
}

using RunRow = void (*)(const Call&, int64_t, float*);

RunRow run_row_of(const BlockFormat& format) {
#define QCORE_BLOCK(name, ggml_type_, elements, bytes, summary) \
  if (format.ggml_type == ggml_type_) return run_row<blocks::name>;
#include "formats/blocks/blocks.def"
#undef QCORE_BLOCK
  return nullptr;
}

}  // namespace

Status kquant_gemm(const KquantArgs& args, const Executor& executor) {
  if (args.empty()) return {};
  const BlockShape& shape = args.weight.shape;
  const RunRow run = run_row_of(*shape.format);
  if (!run) return Status::unsupported("weight.format: kquant_reference does not know it");
  const block16::Geometry g(shape);
  const auto x = allocate<float>(args.m * shape.k);
  const auto quantized = allocate<Quantized>(args.float_activations ? 0 : args.m * g.blocks);
  const auto sums = allocate<float>(args.m * g.panels);  // threads share nothing
  if (!x || !quantized || !sums) {
    return {StatusCode::out_of_memory, "kquant_reference: no memory for a copy of x"};
  }
  const ExactSubnormals mode;
  for (int64_t m = 0; m < args.m; ++m) {
    for (int64_t k = 0; k < shape.k; ++k) {
      x[static_cast<size_t>(m * shape.k + k)] =
          load_scalar(args.dtype, args.x, m * args.x_stride + k);
    }
  }
  const int elements = shape.format->elements;
  for (int64_t i = 0; !args.float_activations && i < args.m * g.blocks; ++i) {
    quantize(x.get() + i * elements, elements, quantized[static_cast<size_t>(i)]);
  }
  const Call call{args, g, block16::fields_of(*shape.format), x.get(),
                  args.float_activations ? nullptr : quantized.get()};
  executor.parallel.for_range(g.panels, 1, [&](int64_t begin, int64_t end) {
    const ExactSubnormals thread_mode;
    for (int64_t n = begin * block16::kRows; n < std::min(g.n, end * block16::kRows); ++n) {
      run(call, n, sums.get() + n / block16::kRows * args.m);
    }
  });
  return {};
}

}  // namespace qcore::reference
