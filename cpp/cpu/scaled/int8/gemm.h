// The gemm: copies x, then shares the strips out to threads. Included by loops.h.

// Threads get ranges of at least this many multiply-adds.
inline constexpr int64_t kGrainProducts = 1 << 18;
// ... or copy so many elements of x.
inline constexpr int64_t kGrainElements = 1 << 15;
// If N gives fewer strips than this, M is cut as well.
inline constexpr int64_t kEnoughTasks = 32;
// As many bytes of x as are copied at once: no more than a part of the L3 cache.
inline constexpr int64_t kCopyBytes = 8 << 20;

// Rows of x that go one way together.
struct Slice {
  int64_t first, rows;
  bool panels;
  int64_t offset;  // of its copy
};

// A block of rows as blocks of panels, and what is left over as single rows, if that is few.
class Slices {
 public:
  static constexpr int64_t kHeight = kHasPanels ? kBlockRows : kFewRows;

  Slices(int64_t rows, int64_t k) : rows_(rows), k_(k) {}
  int64_t count() const { return ceil_div(rows_, kHeight); }
  Slice at(int64_t i) const {
    const int64_t first = i * kHeight, rows = std::min(kHeight, rows_ - first);
    return {first, rows, kHasPanels && rows > kFewRows, i * bytes(kHeight)};
  }
  int64_t total_bytes() const {
    const int64_t before = count() - 1;
    return before * bytes(kHeight) + bytes(rows_ - before * kHeight);
  }

 private:
  // Enough for either way.
  int64_t bytes(int64_t rows) const {
    const int64_t by_rows =
        std::min(rows, kFewRows) * row_pitch(k_) * static_cast<int64_t>(sizeof(XElement));
    const int64_t by_panels =
        kHasPanels && rows > kFewRows ? block_bytes(ceil_div(rows, kLanes), k_) : 0;
    return ceil_div(std::max(by_rows, by_panels), 64) * 64;
  }

  int64_t rows_, k_;
};

// Copies parts begin .. end - 1 of a block of rows, each a panel or as many rows.
inline void copy_x(const ScaledArgs& args, const RowBlock& rows, int64_t begin, int64_t end,
                   uint8_t* out) {
  constexpr int64_t kParts = ceil_div(Slices::kHeight, kLanes);  // of a slice
  const Slices slices(rows.rows, args.w.k);
  for (; begin < end; ++begin) {
    const Slice s = slices.at(begin / kParts);
    const int64_t part = begin % kParts, first = part * kLanes;
    const int64_t count = std::min<int64_t>(kLanes, s.rows - first);
    const int8_t* x = args.x_as<int8_t>() + (rows.first + s.first + first) * args.x_stride;
    if (s.panels) {
      copy_panel(x, args.x_stride, count, args.w.k, ceil_div(s.rows, kLanes), part, out + s.offset);
      continue;
    }
    XElement* to = reinterpret_cast<XElement*>(out + s.offset) + first * row_pitch(args.w.k);
    for (int64_t r = 0; r < count; ++r) {
      copy_row(x + r * args.x_stride, args.w.k, to + r * row_pitch(args.w.k));
    }
  }
}

inline void run_slice(const ScaledArgs& args, const Strip& s, int64_t row0, const Slice& slice,
                      const uint8_t* copy) {
  const int64_t m = row0 + slice.first;
  if constexpr (kHasPanels) {
    if (slice.panels) return panels_strip(args, s, m, slice.rows, copy + slice.offset);
  }
  rows_strip(args, s, m, slice.rows, reinterpret_cast<const XElement*>(copy + slice.offset));
}

// Strips begin .. end - 1 with a block of rows, whose copy is given.
inline void run_strips(const ScaledArgs& args, const RowBlock& rows, int64_t begin, int64_t end,
                       const uint8_t* copy) {
  const Slices slices(rows.rows, args.w.k);
  Strip s;
  for (; begin < end; ++begin) {
    open_strip(args, begin, s);
    for (int64_t i = 0; i < slices.count(); ++i) {
      run_slice(args, s, rows.first, slices.at(i), copy);
    }
  }
}

// How many rows a thread multiplies with a strip.
inline Cut cut_of(const ScaledArgs& args, int64_t strips) {
  constexpr int64_t kUnit = Slices::kHeight;
  const int64_t at_once = std::max<int64_t>(1, kCopyBytes / (args.w.k * kUnit));
  const int64_t enough = ceil_div(ceil_div(args.m, kUnit), ceil_div(kEnoughTasks, strips));
  return {std::min(at_once, enough) * kUnit, kUnit};
}

inline Status gemm(const ScaledArgs& args, const Executor& executor) {
  const int64_t strips = ceil_div(args.w.n, kStrip);
  const Schedule schedule(args.m, args.w.experts, args.offsets, cut_of(args, strips), kCopyBytes,
                          [&](int64_t rows) { return Slices(rows, args.w.k).total_bytes(); });
  const AlignedArray<uint8_t> copy(schedule.copy_size());
  if (!copy.data()) return {StatusCode::out_of_memory, "int8_gemm: no memory for a copy of x"};
  const Parallel& parallel = executor.parallel;
  schedule.for_each_pass([&](const Pass& pass) {
    const auto copying = [&](const RowBlock& rows) {
      return Work{ceil_div(rows.rows, kLanes), args.w.k * kLanes};
    };
    pass.share(parallel, kGrainElements, copying,
               [&](const RowBlock& rows, int64_t begin, int64_t end) {
                 copy_x(args, rows, begin, end, copy.data() + rows.copy);
               });
    const auto products = [&](const RowBlock& rows) {
      return Work{strips, kStrip * args.w.k * rows.rows};
    };
    pass.share(parallel, kGrainProducts, products,
               [&](const RowBlock& rows, int64_t begin, int64_t end) {
                 const ScaledArgs of_expert = args_of(args, rows.expert);
                 run_strips(of_expert, rows, begin, end, copy.data() + rows.copy);
               });
  });
  return {};
}
