// The vocabulary of any machine, as far as ops use it: a vector is one number. Included inside a
// namespace.

inline constexpr int kLanes = 1;

struct Floats {
  float v;
};
struct Ints {
  int32_t v;
};

QCORE_INLINE void store_bytes(void* p, Ints a) {
  *static_cast<uint8_t*>(p) = static_cast<uint8_t>(a.v);
}
QCORE_INLINE Floats load_floats(const void* p) {
  return {*static_cast<const float*>(p)};
}
QCORE_INLINE void store(void* p, Floats a) {
  *static_cast<float*>(p) = a.v;
}
QCORE_INLINE Floats splat(float a) {
  return {a};
}
QCORE_INLINE Floats add(Floats a, Floats b) {
  return {a.v + b.v};
}
QCORE_INLINE Floats sub(Floats a, Floats b) {
  return {a.v - b.v};
}
QCORE_INLINE Floats multiply(Floats a, Floats b) {
  return {a.v * b.v};
}
QCORE_INLINE Floats divide(Floats a, Floats b) {
  return {a.v / b.v};
}
// b if one of them is NaN.
QCORE_INLINE Floats smaller(Floats a, Floats b) {
  return {a.v < b.v ? a.v : b.v};
}
QCORE_INLINE Floats larger(Floats a, Floats b) {
  return {a.v > b.v ? a.v : b.v};
}
QCORE_INLINE Floats magnitude(Floats a) {
  return larger(a, {0 - a.v});
}
// a < b ? yes : no
QCORE_INLINE Floats select_less(Floats a, Floats b, Floats yes, Floats no) {
  return {a.v < b.v ? yes.v : no.v};
}
// Of integers.
QCORE_INLINE Ints round_to_ints(Floats a) {
  return {static_cast<int32_t>(a.v)};
}
