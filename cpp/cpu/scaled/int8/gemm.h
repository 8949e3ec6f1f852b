// The gemm: copies x, then shares the strips out to threads. Included by loops.h.

// Threads get ranges of at least this many multiply-adds.
inline constexpr int64_t kGrainProducts = 1 << 18;
// If N gives fewer strips than this, M is cut as well.
inline constexpr int64_t kEnoughTasks = 32;
// As many bytes of x as are copied at once: no more than a part of the L3 cache.
inline constexpr int64_t kCopyBytes = 8 << 20;

// Rows of x that go one way together.
struct Group {
  int64_t first, rows;
  bool panels;
  int64_t offset;  // of its copy
};

// Rows as blocks of panels, and what is left over as single rows, if that is few.
class Groups {
 public:
  Groups(int64_t rows, int64_t k) : rows_(rows), k_(k) {
    const int64_t height = kHasPanels ? kBlockRows : kFewRows;
    whole_ = rows / height;
    const int64_t rest = rows % height;
    count_ = whole_ + (rest > 0);
    height_ = height;
  }
  int64_t rows() const { return rows_; }
  int64_t count() const { return count_; }
  Group at(int64_t i) const {
    const int64_t first = i * height_, rows = std::min(height_, rows_ - first);
    return {first, rows, kHasPanels && rows > kFewRows, i * bytes(height_)};
  }
  int64_t total_bytes() const { return count_ * bytes(height_); }

 private:
  // Enough for either way.
  int64_t bytes(int64_t rows) const {
    const int64_t by_rows =
        std::min(rows, kFewRows) * row_pitch(k_) * static_cast<int64_t>(sizeof(XElement));
    const int64_t by_panels = kHasPanels ? block_bytes(ceil_div(rows, kLanes), k_) : 0;
    return ceil_div(std::max(by_rows, by_panels), 64) * 64;
  }

  int64_t rows_, k_, height_ = 0, whole_ = 0, count_ = 0;
};

inline void copy_x(const Int8Args& args, int64_t row0, const Groups& groups, uint8_t* out,
                   const Parallel& parallel) {
  // The unit of sharing is a panel, or as many rows.
  const int64_t per_group = ceil_div(kHasPanels ? kBlockRows : kFewRows, kLanes);
  const int64_t grain = std::max<int64_t>(1, (1 << 15) / (args.k * kLanes));
  parallel.for_range(ceil_div(groups.rows(), kLanes), grain, [&](int64_t begin, int64_t end) {
    for (; begin < end; ++begin) {
      const Group g = groups.at(begin / per_group);
      const int64_t part = begin % per_group, first = part * kLanes;
      const int64_t rows = std::min<int64_t>(kLanes, g.rows - first);
      const int8_t* x = args.x + (row0 + g.first + first) * args.x_stride;
      if (g.panels) {
        copy_panel(x, args.x_stride, rows, args.k, ceil_div(g.rows, kLanes), part, out + g.offset);
        continue;
      }
      XElement* to = reinterpret_cast<XElement*>(out + g.offset) + first * row_pitch(args.k);
      for (int64_t r = 0; r < rows; ++r) {
        copy_row(x + r * args.x_stride, args.k, to + r * row_pitch(args.k));
      }
    }
  });
}

inline void run_group(const Int8Args& args, const Strip& s, int64_t row0, const Group& g,
                      const uint8_t* copy) {
  if constexpr (kHasPanels) {
    if (g.panels) return panels_strip(args, s, row0 + g.first, g.rows, copy + g.offset);
  }
  rows_strip(args, s, row0 + g.first, g.rows, reinterpret_cast<const XElement*>(copy + g.offset));
}

inline Status gemm(const Int8Args& args, const Executor& executor) {
  constexpr int64_t kUnit = kHasPanels ? kBlockRows : kFewRows;
  const int64_t at_once = std::max<int64_t>(1, kCopyBytes / (args.k * kUnit)) * kUnit;
  const AlignedArray<uint8_t> copy(Groups(std::min(args.m, at_once), args.k).total_bytes());
  if (!copy.data()) return {StatusCode::out_of_memory, "int8_gemm: no memory for a copy of x"};
  const int64_t strips = ceil_div(args.n, kStrip);
  for (int64_t row0 = 0; row0 < args.m; row0 += at_once) {
    const Groups groups(std::min(at_once, args.m - row0), args.k);
    copy_x(args, row0, groups, copy.data(), executor.parallel);
    const int64_t parts = std::min(groups.count(), ceil_div(kEnoughTasks, strips));
    const int64_t work = kStrip * args.k * ceil_div(std::min(at_once, args.m - row0), parts);
    executor.parallel.for_range(strips * parts, ceil_div(kGrainProducts, work),
                                [&](int64_t begin, int64_t end) {
                                  const ExactSubnormals mode;
                                  Strip s;
                                  for (; begin < end; ++begin) {
                                    const int64_t part = begin / strips;
                                    open_strip(args, begin % strips, s);
                                    for (int64_t g = part * groups.count() / parts;
                                         g < (part + 1) * groups.count() / parts; ++g) {
                                      run_group(args, s, row0, groups.at(g), copy.data());
                                    }
                                  }
                                });
  }
  return {};
}
