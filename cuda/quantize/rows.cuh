// One row of floats to 8 bits, by a block of threads: RMSNorm if wanted, the extremes, the codes.
// The kernels that only quantize and those that multiply at once (scaled) run this, so that they
// give the same bits.
//
// A thread takes 8 neighbouring elements of every 2048; 16 threads share a block of 128. The row is
// copied to shared memory, as it is and as far as there is room, so that it is read from global
// memory once. Each thread copies what it will read itself, and needs no barrier for it.
#pragma once

#include "quantize/rules.cuh"
#include "tile/pieces.cuh"

namespace qcore::quantize {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kRound = kThreads * 8;  // elements of one piece of every thread
// Of shared memory: what the warps tell each other, and the row.
inline constexpr int kExchangeBytes = 128;
inline constexpr int kHeldBytes = 32 << 10;

struct RowsParams {
  const void* x;  // null: nothing to quantize
  int64_t stride, m;
  int k;
  DType dtype;
  const void* norm_weight;  // null: no RMSNorm
  DType norm_dtype;
  float norm_eps;
  bool vectors;  // rows of x, norm_weight and q may be accessed 8 elements at a time
  int held;      // columns that shared memory has room for, a multiple of 8
  bool symmetric;
  Granularity granularity;
  const float* given_scale;   // [1] or [m]; null: from x
  const int32_t* given_zero;  // the same, or null
  Extremes* extremes;         // [extreme_blocks]: of a whole dynamic tensor, from the launch before
  int extreme_blocks;
  uint8_t* q;    // [m, k]
  float* scale;  // [1], [m] or [m, ceil(k / 128)], or null
  int32_t* zero;
};

// Where its threads meet: they are the whole block, or the first kThreads of it.
struct MeetBlock {
  QCORE_DEVICE static void meet() { ptx::sync_block(); }
};

template <class X, class Meet = MeetBlock>
class Quantizer {
 public:
  QCORE_DEVICE Quantizer(const RowsParams& params, ptx::SharedAddress base)
      : p(params), base_(base), thread_(ptx::thread_index()) {}

  // All kThreads threads together, as in all that follows.
  QCORE_DEVICE void quantize(int64_t row) {
    load(row);
    const bool blocks = p.granularity == Granularity::block;
    Scale s = p.granularity == Granularity::tensor ? whole_ : blocks ? Scale() : scale_of(row);
    if (p.granularity == Granularity::row && thread_ == 0) write(row, s);
    Divisor divisor(s.scale);
    for_pieces(row, [&](int column, const float (&x)[8]) {
      if (blocks) {
        s = scale_of_block(x);
        const int64_t at = row * ceil_div(p.k, kScaleBlock) + column / kScaleBlock;
        if (thread_ % 16 == 0 && column < p.k) write(at, s);
        divisor = Divisor(s.scale);
      }
      float quotient[8];
      divisor.divide(x, quotient);
      store(row, column, Rule<X>::convert(quotient, s.zero));
    });
  }

  // Before the rows, if the granularity is the tensor's.
  QCORE_DEVICE void find_tensor_scale() {
    if (p.granularity != Granularity::tensor) return;
    if (p.given_scale) {
      whole_ = given(0);
    } else {
      Extremes e;
      for (int i = thread_; i < p.extreme_blocks; i += kThreads) {
        e.add(ptx::load_global(p.extremes + i));
      }
      whole_ = Rule<X>::scale(reduce(e), p.symmetric);
    }
    if (ptx::block_index() == 0 && thread_ == 0) write(0, whole_);
  }

  // Adds those of a row to what this thread has seen.
  QCORE_DEVICE void add_extremes(int64_t row, Extremes& e) {
    load(row);
    for_pieces(row, [&](int, const float (&x)[8]) { add(x, e); });
  }

  // Of all threads.
  QCORE_DEVICE Extremes reduce(Extremes e) {
    QCORE_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) e.add(exchange(e, mask));
    const uint32_t mine = base_ + static_cast<uint32_t>(thread_ / 32 * 8);
    if (thread_ % 32 == 0) {
      ptx::store_shared(mine, Extremes::number(e.high));
      ptx::store_shared(mine + 4, Extremes::number(e.minus_low));
    }
    Meet::meet();
    QCORE_UNROLL
    for (int warp = 0; warp < kWarps; ++warp) {
      const uint32_t at = base_ + static_cast<uint32_t>(warp * 8);
      e.add(Extremes{static_cast<int>(ptx::load_shared<uint32_t>(at)),
                     static_cast<int>(ptx::load_shared<uint32_t>(at + 4))});
    }
    Meet::meet();  // the place is free again
    return e;
  }

 private:
  QCORE_DEVICE static void add(const float (&x)[8], Extremes& e) {
    QCORE_UNROLL
    for (int j = 0; j < 8; ++j) e.add(x[j]);
  }
  QCORE_DEVICE static Extremes exchange(const Extremes& e, int mask) {
    return {ptx::shuffle_xor(e.high, mask), ptx::shuffle_xor(e.minus_low, mask)};
  }

  // ---- The row

  QCORE_DEVICE void load(int64_t row) {
    const int size = p.dtype == DType::f32 ? 4 : 2;
    const char* const from = static_cast<const char*>(p.x) + row * p.stride * size;
    for (int column = thread_ * 8; column < p.held; column += kRound) {
      for (int half = 0; half < size / 2; ++half) {
        ptx::copy_async_16(held_at(half, column), from + column * size + half * 16, 16);
      }
    }
    ptx::copy_async_commit();
    ptx::copy_async_wait<0>();
    factor_ = p.norm_weight ? norm_factor(row) : 1.0f;
  }

  // The halves of 8 numbers of 4 bytes lie apart, so that neighbours read neighbours.
  QCORE_DEVICE uint32_t held_at(int half, int column) const {
    return base_ + static_cast<uint32_t>(kExchangeBytes + (half * p.held + column) * 2);
  }

  QCORE_DEVICE int count(int column) const {
    const int left = p.k - column;
    return left < 0 ? 0 : left < 8 ? left : 8;
  }

  // As it is in memory.
  QCORE_DEVICE void load_piece(int64_t row, int column, float (&x)[8]) const {
    if (column >= p.held) {
      load_8(p.dtype, p.x, row * p.stride + column, count(column), p.vectors && count(column) == 8,
             x);
      return;
    }
    const ptx::Vec16 low = ptx::load_shared<ptx::Vec16>(held_at(0, column));
    if (p.dtype != DType::f32) {
      unpack_8(p.dtype, low, x);
      return;
    }
    const ptx::Vec16 high = ptx::load_shared<ptx::Vec16>(held_at(1, column));
    QCORE_UNROLL
    for (int j = 0; j < 8; ++j) {
      x[j] = ptx::float_from_bits(j < 4 ? low.word[j % 4] : high.word[j % 4]);
    }
  }

  // Calls body(column, x) for this thread's pieces; all threads make as many calls.
  template <class Body>
  QCORE_DEVICE void for_pieces(int64_t row, const Body& body) const {
    QCORE_NO_UNROLL
    for (int column = thread_ * 8; column - thread_ * 8 < p.k; column += kRound) {
      float x[8];
      load_piece(row, column, x);
      if (p.norm_weight) normalise(column, x);
      body(column, x);
    }
  }

  QCORE_DEVICE void normalise(int column, float (&x)[8]) const {
    float weight[8];
    load_8(p.norm_dtype, p.norm_weight, column, count(column), p.vectors && count(column) == 8,
           weight);
    QCORE_UNROLL
    for (int j = 0; j < 8; ++j) x[j] = ptx::multiply(ptx::multiply(x[j], factor_), weight[j]);
  }

  // Each thread adds its squares in order, then lanes by halves of the warp, then warps in order.
  QCORE_DEVICE float norm_factor(int64_t row) const {
    float sum = 0;
    QCORE_NO_UNROLL
    for (int column = thread_ * 8; column < p.k; column += kRound) {
      float x[8];
      load_piece(row, column, x);
      QCORE_UNROLL
      for (int j = 0; j < 8; ++j) sum = ptx::fma(x[j], x[j], sum);
    }
    QCORE_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) sum += ptx::shuffle_xor(sum, mask);
    if (thread_ % 32 == 0) {
      ptx::store_shared(base_ + static_cast<uint32_t>(thread_ / 32 * 4), sum);
    }
    Meet::meet();
    sum = 0;
    QCORE_UNROLL
    for (int warp = 0; warp < kWarps; ++warp) {
      sum += ptx::load_shared<float>(base_ + static_cast<uint32_t>(warp * 4));
    }
    Meet::meet();
    const float mean = ptx::divide(sum, static_cast<float>(p.k));
    return ptx::divide(1.0f, ptx::square_root(mean + p.norm_eps));
  }

  // ---- Scales

  QCORE_DEVICE Scale given(int64_t at) const {
    return {ptx::load_global(p.given_scale + at),
            p.given_zero ? ptx::load_global(p.given_zero + at) : 0};
  }
  QCORE_DEVICE Scale scale_of(int64_t row) {
    if (p.given_scale) return given(row);
    Extremes e;
    for_pieces(row, [&](int, const float (&x)[8]) { add(x, e); });
    return Rule<X>::scale(reduce(e), p.symmetric);
  }
  QCORE_DEVICE static Scale scale_of_block(const float (&x)[8]) {
    Extremes e;
    add(x, e);
    QCORE_UNROLL
    for (int mask = 8; mask > 0; mask /= 2) e.add(exchange(e, mask));
    return Rule<X>::scale(e, true);
  }

  // ---- The result

  QCORE_DEVICE void write(int64_t at, const Scale& s) const {
    if (p.scale) ptx::store_global(p.scale + at, s.scale);
    if (p.zero) ptx::store_global(p.zero + at, s.zero);
  }
  QCORE_DEVICE void store(int64_t row, int column, const ptx::Vec8& bytes) const {
    uint8_t* const to = p.q + row * p.k + column;
    if (p.vectors && count(column) == 8) {
      ptx::store_global(reinterpret_cast<ptx::Vec8*>(to), bytes);
      return;
    }
    QCORE_UNROLL
    for (int j = 0; j < 8; ++j) {
      if (j < count(column)) {
        ptx::store_global(to + j, static_cast<uint8_t>(bytes.word[j / 4] >> (j % 4 * 8)));
      }
    }
  }

  const RowsParams& p;
  const ptx::SharedAddress base_;
  const int thread_;
  Scale whole_;  // of the tensor
  float factor_ = 1;
};

}  // namespace qcore::quantize
