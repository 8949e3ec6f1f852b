// The vocabulary of the encoders for any machine: a "vector" is one number. Included inside a
// namespace.

inline constexpr int kLanes = 1;
using F = float;

QCORE_INLINE F splat(float a) {
  return a;
}
QCORE_INLINE F load(const float* p) {
  return *p;
}
QCORE_INLINE void store(float* p, F a) {
  *p = a;
}
// b where one is no number.
QCORE_INLINE F min(F a, F b) {
  return a < b ? a : b;
}
QCORE_INLINE F max(F a, F b) {
  return a > b ? a : b;
}
// a < b ? x : y
QCORE_INLINE F if_less(F a, F b, F x, F y) {
  return a < b ? x : y;
}
// An integer 0 .. 255.
QCORE_INLINE void store_bytes(uint8_t* p, F a) {
  *p = static_cast<uint8_t>(a);
}
