// Rows of x and of the weight as vectors along K, where bytes are widened to 16 bits: a sum of two
// products of bytes would saturate at that.

inline constexpr int kStep = 2 * kLanes;  // columns of K in one vector
inline constexpr int kOffset = 0;
using XElement = int16_t;  // of the copy of x

QCORE_INLINE Ints load_w(const int8_t* p) {
  return load_bytes_as_pairs(p);
}
// The first `count`, 0 behind them.
QCORE_INLINE Ints load_w(const int8_t* p, int64_t count) {
  int8_t padded[kStep] = {};
  std::memcpy(padded, p, static_cast<size_t>(count));
  return load_w(padded);
}
// acc + products of the elements of x and of the weight, in each lane.
QCORE_INLINE Ints dot(Ints acc, Ints x, Ints w) {
  return dot_pairs(acc, x, w);
}
QCORE_INLINE Ints ones_of_x() {
  return splat(0x00010001);
}
