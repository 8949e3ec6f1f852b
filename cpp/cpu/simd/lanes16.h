// 16 lanes from a vocabulary of fewer: a pair of halves, or a pair of pairs. Included after the
// words of an instruction set; written once.

template <class V>
struct Pair {
  V lo, hi;
};

template <class V, int lanes>
struct Wide {
  using Type = Pair<typename Wide<V, lanes / 2>::Type>;
};
template <class V>
struct Wide<V, kLanes> {
  using Type = V;
};
using Floats16 = Wide<Floats, 16>::Type;
using Ints16 = Wide<Ints, 16>::Type;

// Made of what `part(i)` gives for each vector i of it.
template <class V, int first = 0, class Part>
QCORE_INLINE V from_parts(Part part) {
  if constexpr (requires(V a) { a.lo; }) {
    using Half = decltype(V::lo);
    constexpr int kHalf = sizeof(Half) / sizeof(Floats);
    return {from_parts<Half, first>(part), from_parts<Half, first + kHalf>(part)};
  } else {
    return part(first);
  }
}

template <class V, class Number>
QCORE_INLINE V splat(Number a) {
  return from_parts<V>([a](int) QCORE_LAMBDA { return splat(a); });
}
template <class V>
QCORE_INLINE V load_floats(const void* p) {
  return from_parts<V>([p](int i) QCORE_LAMBDA {
    return load_floats(static_cast<const char*>(p) + i * kLanes * 4);
  });
}
template <class V>
QCORE_INLINE V load_ints(const void* p) {
  return from_parts<V>(
      [p](int i) QCORE_LAMBDA { return load_ints(static_cast<const char*>(p) + i * kLanes * 4); });
}
template <class V>
QCORE_INLINE V load_f16(const void* p) {
  return from_parts<V>(
      [p](int i) QCORE_LAMBDA { return load_f16(static_cast<const char*>(p) + i * kLanes * 2); });
}
template <class V>
QCORE_INLINE V load_bf16(const void* p) {
  return from_parts<V>(
      [p](int i) QCORE_LAMBDA { return load_bf16(static_cast<const char*>(p) + i * kLanes * 2); });
}
template <class V>
QCORE_INLINE V load_bytes(const void* p) {
  return from_parts<V>(
      [p](int i) QCORE_LAMBDA { return load_bytes(static_cast<const char*>(p) + i * kLanes); });
}

template <class V>
QCORE_INLINE void store(void* p, Pair<V> a) {
  store(p, a.lo);
  store(static_cast<char*>(p) + sizeof(V), a.hi);
}
template <class V>
QCORE_INLINE void store_f16(void* p, Pair<V> a) {
  store_f16(p, a.lo);
  store_f16(static_cast<char*>(p) + sizeof(V) / 2, a.hi);
}
template <class V>
QCORE_INLINE void store_bf16(void* p, Pair<V> a) {
  store_bf16(p, a.lo);
  store_bf16(static_cast<char*>(p) + sizeof(V) / 2, a.hi);
}

// Each word on both halves.
#define QCORE_ON_ONE(word)                                     \
  template <class V>                                           \
  QCORE_INLINE auto word(Pair<V> a) {                          \
    return Pair<decltype(word(a.lo))>{word(a.lo), word(a.hi)}; \
  }
#define QCORE_ON_TWO(word)                              \
  template <class V>                                    \
  QCORE_INLINE Pair<V> word(Pair<V> a, Pair<V> b) {     \
    return Pair<V>{word(a.lo, b.lo), word(a.hi, b.hi)}; \
  }
QCORE_ON_ONE(as_floats)
QCORE_ON_ONE(bits_of)
QCORE_ON_ONE(round_to_even)
QCORE_ON_ONE(round_to_ints)
QCORE_ON_ONE(to_floats)
QCORE_ON_TWO(add)
QCORE_ON_TWO(both)
QCORE_ON_TWO(divide)
QCORE_ON_TWO(either)
QCORE_ON_TWO(exclusive_or)
QCORE_ON_TWO(larger)
QCORE_ON_TWO(multiply)
QCORE_ON_TWO(smaller)
QCORE_ON_TWO(sub)
#undef QCORE_ON_ONE
#undef QCORE_ON_TWO

template <class V>
QCORE_INLINE Pair<V> fma(Pair<V> a, Pair<V> b, Pair<V> c) {
  return {fma(a.lo, b.lo, c.lo), fma(a.hi, b.hi, c.hi)};
}
template <class V>
QCORE_INLINE Pair<V> fma_broadcast(const float* x, Pair<V> w, Pair<V> acc) {
  return {fma_broadcast(x, w.lo, acc.lo), fma_broadcast(x, w.hi, acc.hi)};
}
template <class V>
QCORE_INLINE Pair<V> and_or(Pair<V> a, Pair<V> mask, Pair<V> b) {
  return {and_or(a.lo, mask.lo, b.lo), and_or(a.hi, mask.hi, b.hi)};
}
template <int n, class V>
QCORE_INLINE Pair<V> shift_right(Pair<V> a) {
  return {shift_right<n>(a.lo), shift_right<n>(a.hi)};
}
template <int n, class V>
QCORE_INLINE Pair<V> shift_left(Pair<V> a) {
  return {shift_left<n>(a.lo), shift_left<n>(a.hi)};
}
template <class V, class W>
QCORE_INLINE Pair<V> select_less(Pair<W> a, Pair<W> b, Pair<V> yes, Pair<V> no) {
  return {select_less(a.lo, b.lo, yes.lo, no.lo), select_less(a.hi, b.hi, yes.hi, no.hi)};
}
template <class V>
QCORE_INLINE bool any_nan(Pair<V> a) {
  return any_nan(a.lo) || any_nan(a.hi);
}
template <class V>
QCORE_INLINE float least_of(Pair<V> a) {
  return least_of(smaller(a.lo, a.hi));
}
template <class V>
QCORE_INLINE float most_of(Pair<V> a) {
  return most_of(larger(a.lo, a.hi));
}
