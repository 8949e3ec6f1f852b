// The gemm: prepares the activations of blocks of rows, then shares the panels out to threads.
// Included by loops.h.

template <Elements elements>
void run_panels(const Block& b, int64_t begin, int64_t end) {
  constexpr auto kHeights = std::make_integer_sequence<int, kTileRows>();
  if (b.tiling.rows > kDirectRows) return blocked_panels<elements>(b, begin, end);
  if constexpr (takes_zeros(elements)) {
    if (b.args.weight.zeros) return direct_block<elements, true>(b, begin, end, kHeights);
  }
  direct_block<elements, false>(b, begin, end, kHeights);
}

inline void run(const Block& b, int64_t begin, int64_t end) {
  switch (b.args.weight.shape.elements) {
    case Elements::u2: return run_panels<Elements::u2>(b, begin, end);
    case Elements::u3: return run_panels<Elements::u3>(b, begin, end);
    case Elements::u4: return run_panels<Elements::u4>(b, begin, end);
    case Elements::u8: return run_panels<Elements::u8>(b, begin, end);
    case Elements::e4m3: return run_panels<Elements::e4m3>(b, begin, end);
    case Elements::e5m2: return run_panels<Elements::e5m2>(b, begin, end);
    case Elements::s8: break;  // is not packed
  }
}

// A range of a parallel loop should hold at least this many multiply-adds.
constexpr int64_t kGrain = 1 << 17;
// Blocks of rows that have a copy of their x at once take so many floats at most.
constexpr int64_t kCopyFloats = 1 << 21;

Status w4a16_gemm(const W4A16Args& args, const Executor& executor) {
  if (args.empty()) return {};
  if (Status status = check_perms(args); !status.ok()) return status;
  const Geometry g(args.weight.shape);
  const Schedule schedule(args.m, args.weight.shape.experts, args.offsets, {.most = kBlockRows},
                          kCopyFloats, [&](int64_t rows) { return g.padded_k() * rows; });
  const AlignedArray<float> x(schedule.copy_size());
  if (!x.data()) {
    return {StatusCode::out_of_memory, "w4a16_gemm: no memory for x as fp32, " +
                                           std::to_string(schedule.copy_size() * 4) + " bytes"};
  }
  const Parallel& parallel = executor.parallel;
  schedule.for_each_pass([&](const Pass& pass) {
    const auto preparing = [&](const RowBlock& rows) {
      return Work{g.segments(), kSegmentColumns * rows.rows * 8};
    };
    pass.share(parallel, kGrain, preparing, [&](const RowBlock& rows, int64_t begin, int64_t end) {
      const W4A16Args of_expert = args_of(args, rows.expert);
      for (int64_t i = begin; i < end; ++i) {
        prepare_segment(of_expert, g, i, rows.first, Tiling::of(rows.rows), x.data() + rows.copy);
      }
    });
    const auto products = [&](const RowBlock& rows) {
      return Work{ceil_div(g.panels, kStep), kStep * kRows * g.padded_k() * rows.rows};
    };
    pass.share(parallel, kGrain, products, [&](const RowBlock& rows, int64_t begin, int64_t end) {
      const W4A16Args of_expert = args_of(args, rows.expert);
      const Block block{of_expert, g, rows.first, Tiling::of(rows.rows), x.data() + rows.copy};
      run(block, begin * kStep, std::min(g.panels, end * kStep));
    });
  });
  return {};
}
