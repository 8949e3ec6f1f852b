// The gemm: prepares the activations of blocks of rows, then shares the panels out to threads.
// Included by loops.h.

template <int bits>
void run_panels(const Block& b, int64_t begin, int64_t end) {
  constexpr auto kHeights = std::make_integer_sequence<int, kTileRows>();
  if (b.tiling.rows > kDirectRows) return blocked_panels<bits>(b, begin, end);
  if constexpr (bits <= 8) {
    if (b.args.weight.zeros) return direct_block<bits, true>(b, begin, end, kHeights);
  }
  direct_block<bits, false>(b, begin, end, kHeights);
}

inline void run(const Block& b, int64_t begin, int64_t end) {
  const IntGroup& shape = b.args.weight.shape;
  switch (shape.bits) {
    case 2: return run_panels<2>(b, begin, end);
    case 3: return run_panels<3>(b, begin, end);
    case 4: return run_panels<4>(b, begin, end);
    default: break;
  }
  switch (shape.kind) {
    case CodeKind::integer: return run_panels<8>(b, begin, end);
    case CodeKind::e4m3: return run_panels<kE4M3>(b, begin, end);
    case CodeKind::e5m2: return run_panels<kE5M2>(b, begin, end);
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
