// The activations of op "w4a16", prepared for the register tiles; included by loops.h inside
// a target region and a namespace, after a vector vocabulary.
//
// A block of rows of x becomes fp32, gathered by perm and padded with 0, as
// [segment][tile of rows][column][row of the tile], so that a register tile reads it as one stream.

using panel16::Geometry;
using panel16::kRows;
using panel16::kSegmentColumns;
using panel16::kSegmentUnits;
using panel16::kUnitColumns;
using panel16::Segment;

// How the rows of a block are cut into tiles of nearly equal height: a tile of one row would wait
// for its own additions.
struct Tiling {
  int64_t rows, tiles;

  static Tiling of(int64_t rows) { return {rows, ceil_div(rows, kTileRows)}; }
  int64_t height(int64_t tile) const { return rows / tiles + (tile < rows % tiles ? 1 : 0); }
  int64_t first(int64_t tile) const { return tile * (rows / tiles) + std::min(tile, rows % tiles); }
};

QCORE_INLINE Floats16 load_as(DType dtype, const void* p) {
  if (dtype == DType::f32) return load_floats<Floats16>(p);
  return dtype == DType::f16 ? load_f16<Floats16>(p) : load_bf16<Floats16>(p);
}

inline void store_as(DType dtype, void* p, Floats16 a) {
  if (dtype == DType::f32) return store(p, a);
  return dtype == DType::f16 ? store_f16(p, a) : store_bf16(p, a);
}

// The `count` elements of a segment of one row into fp32, gathered by perm and padded with 0.
inline void load_activations(const W4A16Args& args, int64_t row, const Segment& segment,
                             float* out) {
  alignas(64) char raw[kSegmentColumns * 4];
  const int64_t size = size_of(args.dtype);
  const char* x = static_cast<const char*>(args.x) + row * args.x_stride * size;
  if (!args.perm) {
    std::memcpy(raw, x + segment.source * size, static_cast<size_t>(segment.real * size));
  } else {
    const int32_t* columns = args.perm + segment.source;
    for (int64_t i = 0; i < segment.real; ++i) {
      if (size == 4) {
        std::memcpy(raw + i * 4, x + int64_t{columns[i]} * 4, 4);
      } else {
        std::memcpy(raw + i * 2, x + int64_t{columns[i]} * 2, 2);
      }
    }
  }
  std::memset(raw + segment.real * size, 0,
              static_cast<size_t>((segment.columns - segment.real) * size));
  for (int64_t i = 0; i < segment.columns; i += kRows) {
    store(out + i, load_as(args.dtype, raw + i * size));
  }
}

inline void prepare_segment(const W4A16Args& args, const Geometry& g, int64_t index, int64_t row0,
                            Tiling tiling, float* x) {
  const Segment segment = panel16::segment_at(g, index);
  float* out = x + segment.unit * kUnitColumns * tiling.rows;
  for (int64_t tile = 0; tile < tiling.tiles; ++tile) {
    const int64_t height = tiling.height(tile);
    for (int64_t r = 0; r < height; ++r) {
      const int64_t row = tiling.first(tile) + r;
      alignas(64) float staged[kSegmentColumns];
      load_activations(args, row0 + row, segment, staged);
      for (int64_t k = 0; k < segment.columns; ++k) out[k * height + r] = staged[k];
    }
    out += segment.columns * height;
  }
}
