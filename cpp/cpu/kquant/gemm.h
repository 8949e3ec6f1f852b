// The gemm: prepares the activations of a block of rows, then shares the strips out to threads.
// Included by loops.h.

// A range of a parallel loop should hold at least this many multiply-adds, or elements of x.
constexpr int64_t kGrainProducts = 1 << 18;
constexpr int64_t kGrainElements = 1 << 14;

using Prepare = void (*)(DType, const void*, int64_t, int64_t, int32_t*);

// Prepares rows row0 .. of x, a block of a tile at a time.
inline void prepare(const KquantArgs& args, int64_t elements, int64_t words, int64_t row0,
                    Tiling tiling, Prepare block, int32_t* out, const Parallel& parallel) {
  const int64_t blocks = args.weight.shape.k / elements, size = size_of(args.dtype);
  parallel.for_range(
      tiling.tiles * blocks, std::max<int64_t>(1, kGrainElements / (elements * kTileRows)),
      [&](int64_t begin, int64_t end) {
        const ExactSubnormals mode;
        for (int64_t i = begin; i < end; ++i) {
          const int64_t tile = i / blocks, b = i % blocks;
          const int64_t first = tiling.first(tile), height = tiling.height(tile);
          int32_t* to = out + (first * blocks + b * height) * words;
          for (int64_t r = 0; r < height; ++r) {
            const char* x = static_cast<const char*>(args.x) +
                            ((row0 + first + r) * args.x_stride + b * elements) * size;
            block(args.dtype, x, height, r, to);
          }
        }
      });
}

template <class Format>
struct Gemm {
  using D = Decoder<Format>;
  using Heights = std::make_integer_sequence<int, kTileRows>;

  static void integers(const Call& call, int64_t begin, int64_t end) {
    direct_strips<D>(call, begin, end, Heights());
  }
  static void floats(const Call& call, int64_t begin, int64_t end) {
    for (; begin < end; ++begin) float_strip<D>(call, begin, Heights());
  }

  static Status run(const KquantArgs& args, const Executor& executor) {
    if (args.float_activations) {
      return run_as(args, executor, D::kElements, load_block<D>, floats);
    }
    return run_as(args, executor, Words<D>::kCount, quantize_block<D>, integers);
  }

 private:
  static Status run_as(const KquantArgs& args, const Executor& executor, int64_t words,
                       Prepare block, void (*strips)(const Call&, int64_t, int64_t)) {
    const BlockShape& shape = args.weight.shape;
    const block16::Geometry g(shape);
    const int64_t block_rows = ceil_div(args.m, ceil_div(args.m, kBlockRows));
    const AlignedArray<int32_t> x(g.blocks * words * block_rows);
    if (!x.data()) return {StatusCode::out_of_memory, "kquant_gemm: no memory for a copy of x"};
    for (int64_t row0 = 0; row0 < args.m; row0 += block_rows) {
      const Tiling tiling = Tiling::of(std::min(block_rows, args.m - row0));
      prepare(args, D::kElements, words, row0, tiling, block, x.data(), executor.parallel);
      const Call call{args, g, row0, tiling, x.data()};
      // Threads take whole steps, so that a step of strips is in one cache.
      const int64_t work = kStepStrips * kLanes * std::max<int64_t>(1, shape.k) * tiling.rows;
      const int64_t strips_of_n = ceil_div(shape.n, kLanes);
      executor.parallel.for_range(ceil_div(strips_of_n, kStepStrips),
                                  ceil_div(kGrainProducts, work), [&](int64_t begin, int64_t end) {
                                    const ExactSubnormals mode;
                                    strips(call, begin * kStepStrips,
                                           std::min(strips_of_n, end * kStepStrips));
                                  });
    }
    return {};
  }
};

Status kquant_gemm(const KquantArgs& args, const Executor& executor) {
  if (args.empty()) return {};
  switch (args.weight.shape.format->ggml_type) {
#define QCORE_BLOCK(name, ggml_type, elements, bytes, summary) \
  case ggml_type: return Gemm<blocks::name>::run(args, executor);
#include "formats/blocks/blocks.def"
#undef QCORE_BLOCK
    default: return Status::unsupported("type: no kernel for this block format");
  }
}
