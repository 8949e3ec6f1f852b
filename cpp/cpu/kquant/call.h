// What all paths share: the call, the way along a strip, and y. Included by loops.h.

// A block of rows of x, prepared, and what is needed to compute its rows of y.
struct Call {
  const KquantArgs& args;
  const block16::Geometry& geometry;
  int64_t row0;
  Tiling tiling;
  const int32_t* x;
};

// The blocks of one strip, along K.
template <class D>
struct Strips {
  static constexpr int64_t kBytes = sizeof(typename D::Format);
  static constexpr int64_t kDwordBytes = kBytes / 4 * 4 * block16::kRows;
  static constexpr int64_t kRestBytes = kBytes % 4 * block16::kRows;

  QCORE_INLINE Strips(const Call& call, int64_t index) {
    const uint8_t* base = static_cast<const uint8_t*>(call.args.weight.data);
    const int64_t panel = index * kLanes / block16::kRows;
    const int64_t lane = index * kLanes % block16::kRows;
    strip = {base + call.geometry.dwords_at(panel, 0) + lane * 4,
             base + call.geometry.rest_at(panel, 0) + lane * (kBytes % 4)};
  }
  QCORE_INLINE void next() {
    strip.dwords += kDwordBytes;
    strip.rest += kRestBytes;
  }

  Strip strip;
};

QCORE_INLINE void store_as(DType dtype, void* p, Floats a) {
  if (dtype == DType::f32) return store(p, a);
  return dtype == DType::f16 ? store_f16(p, a) : store_bf16(p, a);
}

// y = round(acc + bias) for `rows` rows of a strip; sums of rows are `stride` floats apart.
inline void write_strip(const Call& call, int64_t row, int64_t rows, int64_t strip,
                        const float* sums, int64_t stride) {
  const DType dtype = call.args.dtype;
  const int64_t size = size_of(dtype), n = call.geometry.n;
  const int64_t first = strip * kLanes;
  const int64_t columns = std::min<int64_t>(kLanes, n - first);
  if (columns <= 0) return;
  const size_t bytes = static_cast<size_t>(columns * size);
  Floats bias = splat(0.0f);
  if (call.args.bias) {
    alignas(64) char padded[kLanes * 4] = {};
    std::memcpy(padded, static_cast<const char*>(call.args.bias) + first * size, bytes);
    bias = load_as(dtype, padded);
  }
  char* y = static_cast<char*>(call.args.y) + ((call.row0 + row) * n + first) * size;
  for (int64_t r = 0; r < rows; ++r, y += n * size) {
    Floats sum = load_floats(sums + r * stride);
    if (call.args.bias) sum = add(sum, bias);
    if (columns == kLanes) {
      store_as(dtype, y, sum);
    } else {
      alignas(64) char padded[kLanes * 4];
      store_as(dtype, padded, sum);
      std::memcpy(y, padded, bytes);
    }
  }
}
