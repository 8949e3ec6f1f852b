// Rows of x and of the weight as vectors along K, where there is a product of unsigned by signed
// bytes: x is read with an offset of 128.

inline constexpr int kStep = 4 * kLanes;  // columns of K in one vector
inline constexpr int kOffset = 128;
using XElement = uint8_t;  // of the copy of x: x + 128

QCORE_INLINE Ints load_w(const int8_t* p) {
  return load_ints(p);
}
// The first `count`, 0 behind them.
QCORE_INLINE Ints load_w(const int8_t* p, int64_t count) {
  return load_first_bytes(p, count);
}
// acc + products of the elements of x and of the weight, in each lane.
QCORE_INLINE Ints dot(Ints acc, Ints x, Ints w) {
  return dot_bytes(acc, x, w);
}
QCORE_INLINE Ints ones_of_x() {
  return splat(0x01010101);
}
