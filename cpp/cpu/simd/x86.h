// What the vocabularies of x86 share: four numbers in half of the narrowest vector, and
// prefetching. Included by them.

struct FourInts {
  __m128i v;
};
struct FourFloats {
  __m128 v;
};

QCORE_INLINE FourInts load_four_ints(const void* p) {
  return {_mm_loadu_si128(static_cast<const __m128i*>(p))};
}
QCORE_INLINE void store(void* p, FourInts a) {
  _mm_storeu_si128(static_cast<__m128i*>(p), a.v);
}
QCORE_INLINE void store(void* p, FourFloats a) {
  _mm_storeu_ps(static_cast<float*>(p), a.v);
}
QCORE_INLINE FourInts add(FourInts a, FourInts b) {
  return {_mm_add_epi32(a.v, b.v)};
}

// Into the first cache.
QCORE_INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}
// Into the second cache.
QCORE_INLINE void prefetch_far(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
}
