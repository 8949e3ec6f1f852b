// From sums to y. Included by loops.h.

inline constexpr int64_t kStrip = 48;
// K is cut into parts of at most this many columns, so that a tile's operands stay in the caches.
inline constexpr int64_t kPart = 4096;

// What belongs to the rows of the weight of one strip, padded to its width.
struct Strip {
  int64_t first = 0, count = 0;
  const int8_t* w[kStrip];  // rows; those behind the last one are it again
  alignas(64) int32_t sum[kStrip];
  alignas(64) float scale[kStrip];
  alignas(64) float bias[kStrip];
};

// Sums over K of four rows of the weight.
inline void sum_rows(const int8_t* const* w, int64_t k, int32_t* sums) {
  Ints acc[4] = {splat(0), splat(0), splat(0), splat(0)};
  const Ints one = ones_of_x();
  int64_t i = 0;
  for (; i + kStep <= k; i += kStep) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) acc[c] = dot(acc[c], one, load_w(w[c] + i));
  }
  if (i < k) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) acc[c] = dot(acc[c], one, load_w(w[c] + i, k - i));
  }
  store(sums, sums_of(acc[0], acc[1], acc[2], acc[3]));
}

inline void open_strip(const ScaledArgs& args, int64_t index, Strip& s) {
  s.first = index * kStrip;
  s.count = std::min(kStrip, args.w.n - s.first);
  const bool one_scale = args.w.granularity == Granularity::tensor;
  for (int64_t c = 0; c < kStrip; ++c) {
    const int64_t n = s.first + std::min(c, s.count - 1);
    s.w[c] = args.weight_as<int8_t>() + n * args.w.k;
    s.scale[c] = args.w_scale[one_scale ? 0 : n];
    s.bias[c] = -0.0f;  // adds nothing, whatever the sign
    if (args.bias) s.bias[c] = load_scalar(args.bias_dtype, args.bias, n);
    s.sum[c] = args.w_sum ? args.w_sum[n] : 0;
  }
  if (args.w_sum || (kOffset == 0 && !args.x_zero)) return;
  for (int64_t c = 0; c < s.count; c += 4) sum_rows(s.w + c, args.w.k, s.sum + c);
}

// y of row m and of `kLanes` rows of the weight from column c of the strip.
QCORE_INLINE void finish(const ScaledArgs& args, const Strip& s, int64_t m, int64_t c, Ints sums) {
  const int64_t count = std::min<int64_t>(kLanes, s.count - c);
  if (count <= 0) return;
  const Ints w_sum = load_ints(s.sum + c);
  if constexpr (kOffset == 128) sums = sub(sums, shift_left<7>(w_sum));
  const int64_t at = args.x_scales == Granularity::tensor ? 0 : m;
  const Floats value = args.x_zero ? less_products(sums, args.x_zero[at], w_sum) : to_floats(sums);
  const Floats y = fma(multiply(value, splat(args.x_scale[at])), load_floats(s.scale + c),
                       load_floats(s.bias + c));
  const int64_t size = size_of(args.dtype);
  char* to = static_cast<char*>(args.y) + (m * args.w.n + s.first + c) * size;
  alignas(64) char padded[kLanes * 4];
  char* const target = count == kLanes ? to : padded;
  switch (args.dtype) {
    case DType::f32: store(target, y); break;
    case DType::f16: store_f16(target, y); break;
    case DType::bf16: store_bf16(target, y); break;
  }
  if (count < kLanes) std::memcpy(to, padded, static_cast<size_t>(count * size));
}
