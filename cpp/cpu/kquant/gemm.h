// The gemm: prepares the activations of a block of rows, then shares the strips out to threads.
// Included by loops.h.

// A range of a parallel loop should hold at least this many multiply-adds, or elements of x.
constexpr int64_t kGrainProducts = 1 << 18;
constexpr int64_t kGrainElements = 1 << 14;

// Blocks of rows that have a copy of their x at once take so many words at most.
constexpr int64_t kCopyWords = 1 << 21;

using Prepare = void (*)(DType, const void*, int64_t, int64_t, int32_t*);

// Prepares blocks of K of the tiles of a block of rows, counted through: its tile, then the block.
inline void prepare(const KquantArgs& args, int64_t elements, int64_t words, const RowBlock& rows,
                    Prepare block, int32_t* out, int64_t begin, int64_t end) {
  const int64_t blocks = args.weight.shape.k / elements, size = size_of(args.dtype);
  const Tiling tiling = Tiling::of(rows.rows);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t tile = i / blocks, b = i % blocks;
    const int64_t first = tiling.first(tile), height = tiling.height(tile);
    int32_t* to = out + (first * blocks + b * height) * words;
    for (int64_t r = 0; r < height; ++r) {
      const char* x = static_cast<const char*>(args.x) +
                      ((rows.first + first + r) * args.x_stride + b * elements) * size;
      block(args.dtype, x, height, r, to);
    }
  }
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
    const Schedule schedule(args.m, shape.experts, args.offsets, {.most = kBlockRows}, kCopyWords,
                            [&](int64_t rows) { return g.blocks * words * rows; });
    const AlignedArray<int32_t> x(schedule.copy_size());
    if (!x.data()) return {StatusCode::out_of_memory, "kquant_gemm: no memory for a copy of x"};
    const Parallel& parallel = executor.parallel;
    schedule.for_each_pass([&](const Pass& pass) {
      const auto preparing = [&](const RowBlock& rows) {
        return Work{Tiling::of(rows.rows).tiles * g.blocks, D::kElements * kTileRows};
      };
      pass.share(parallel, kGrainElements, preparing,
                 [&](const RowBlock& rows, int64_t begin, int64_t end) {
                   prepare(args, D::kElements, words, rows, block, x.data() + rows.copy, begin,
                           end);
                 });
      // Threads take whole steps, so that a step of strips is in one cache.
      const int64_t strips_of_n = ceil_div(shape.n, kLanes);
      const auto products = [&](const RowBlock& rows) {
        return Work{ceil_div(strips_of_n, kStepStrips), kStepStrips * kLanes * shape.k * rows.rows};
      };
      pass.share(parallel, kGrainProducts, products,
                 [&](const RowBlock& rows, int64_t begin, int64_t end) {
                   const KquantArgs of_expert = args_of(args, rows.expert);
                   const Call call{of_expert, g, rows.first, Tiling::of(rows.rows),
                                   x.data() + rows.copy};
                   strips(call, begin * kStepStrips, std::min(strips_of_n, end * kStepStrips));
                 });
    });
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
