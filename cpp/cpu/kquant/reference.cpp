// The row that takes every problem on every machine: block16 read through the codecs, one product
// at a time.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/aligned.h"
#include "cpu/kquant/kernels.h"
#include "cpu/layouts/block16.h"
#include "cpu/schedule.h"
#include "formats/blocks/blocks.h"
#include "numerics/float16.h"

namespace qcore::reference {
namespace {

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

constexpr int64_t kBlockRows = 128;
constexpr int64_t kGrain = 1 << 12;  // of multiply-adds

// A block of rows of x with one weight.
struct Call {
  const KquantArgs& args;
  const RowBlock& rows;
  const block16::Geometry& geometry;
  const block16::Fields& fields;
  const float* x;              // [rows, K]
  const Quantized* quantized;  // [rows, blocks], or null
};

// Column n of y.
template <class Block>
void run_row(const Call& call, int64_t n) {
  const KquantArgs& args = call.args;
  const block16::Geometry& g = call.geometry;
  float sums[kBlockRows] = {};
  for (int64_t b = 0; b < g.blocks; ++b) {
    Block block;
    load_block(args.weight, g, call.fields, n, b, reinterpret_cast<uint8_t*>(&block));
    if (call.quantized) {
      const Integers<Block> integers(block);
      for (int64_t m = 0; m < call.rows.rows; ++m) {
        sums[m] = integers.add_products(call.quantized[m * g.blocks + b], sums[m]);
      }
    } else {
      float w[Block::kElements];
      args.weight.shape.format->decode(&block, 1, w);
      for (int64_t m = 0; m < call.rows.rows; ++m) {
        const float* x = call.x + (m * g.blocks + b) * Block::kElements;
        for (int i = 0; i < Block::kElements; ++i) sums[m] = std::fma(x[i], w[i], sums[m]);
      }
    }
  }
  for (int64_t m = 0; m < call.rows.rows; ++m) {
    const float y = args.bias ? sums[m] + load_scalar(args.dtype, args.bias, n) : sums[m];
    store_scalar(args.dtype, args.y, (call.rows.first + m) * g.n + n, y);
  }
}

using RunRow = void (*)(const Call&, int64_t);

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
  const block16::Fields fields = block16::fields_of(*shape.format);
  const int elements = shape.format->elements;
  const Schedule schedule(args.m, shape.experts, args.offsets, {.most = kBlockRows}, args.m,
                          [](int64_t rows) { return rows; });
  const AlignedArray<float> x(args.m * shape.k);
  const AlignedArray<Quantized> quantized(args.float_activations ? 0 : args.m * g.blocks);
  if (!x.data() || !quantized.data()) {
    return {StatusCode::out_of_memory, "kquant_reference: no memory for a copy of x"};
  }
  const Parallel& parallel = executor.parallel;
  schedule.for_each_pass([&](const Pass& pass) {
    const auto preparing = [&](const RowBlock& rows) { return Work{rows.rows, shape.k}; };
    pass.share(parallel, kGrain, preparing, [&](const RowBlock& rows, int64_t begin, int64_t end) {
      for (int64_t m = rows.first + begin; m < rows.first + end; ++m) {
        float* const to = x.data() + m * shape.k;
        for (int64_t k = 0; k < shape.k; ++k) {
          to[k] = load_scalar(args.dtype, args.x, m * args.x_stride + k);
        }
        for (int64_t b = 0; !args.float_activations && b < g.blocks; ++b) {
          quantize(to + b * elements, elements, quantized.data()[m * g.blocks + b]);
        }
      }
    });
    const auto products = [&](const RowBlock& rows) { return Work{g.n, shape.k * rows.rows}; };
    pass.share(parallel, kGrain, products, [&](const RowBlock& rows, int64_t begin, int64_t end) {
      const KquantArgs of_expert = args_of(args, rows.expert);
      const Call call{of_expert,
                      rows,
                      g,
                      fields,
                      x.data() + rows.first * shape.k,
                      args.float_activations ? nullptr : quantized.data() + rows.first * g.blocks};
      for (; begin < end; ++begin) run(call, begin);
    });
  });
  return {};
}

}  // namespace qcore::reference
