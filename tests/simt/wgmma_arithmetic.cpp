// The numbers of a warpgroup's product.
//
// Integers are exact. Half and bfloat16 are summed in double and rounded once. FP8 is summed as
// coarsely as it has been seen on Hopper: all terms of an instruction, and the sum so far, are cut
// to a multiple of 2^-13 of the power of two in the largest of them. So a kernel that lets the
// matrix unit sum a long K by itself shows its loss here, as on the hardware.
#include <bit>
#include <cmath>
#include <cstring>

#include "numerics/float16.h"
#include "simt/float8.h"
#include "simt/wgmma.h"

namespace qcore::simt {
namespace {

constexpr int kRows = 64;
constexpr size_t kMostColumns = 256, kMostTerms = 32;

// The elements of 32 bytes as floats; how many they are.
size_t decode(ElementKind kind, const unsigned char (&bytes)[32], float* out) {
  if (kind == ElementKind::half || kind == ElementKind::bfloat) {
    for (size_t i = 0; i < 16; ++i) {
      uint16_t element;
      std::memcpy(&element, bytes + 2 * i, 2);
      out[i] = kind == ElementKind::half ? f32_from_f16(element) : f32_from_bf16(element);
    }
    return 16;
  }
  const auto& values = float8_values(kind == ElementKind::e4m3 ? kE4m3 : kE5m2);
  for (size_t i = 0; i < 32; ++i) out[i] = static_cast<float>(values[bytes[i]]);
  return 32;
}

using Columns = float[kMostTerms][kMostColumns];

void add_exactly(const float* a, const Columns& b, size_t terms, size_t n, uint32_t* sums) {
  static double total[kMostColumns];
  for (size_t j = 0; j < n; ++j) total[j] = std::bit_cast<float>(sums[j]);
  for (size_t k = 0; k < terms; ++k) {
    const double factor = a[k];
    for (size_t j = 0; j < n; ++j) total[j] += factor * b[k][j];
  }
  for (size_t j = 0; j < n; ++j) sums[j] = std::bit_cast<uint32_t>(static_cast<float>(total[j]));
}

void add_coarsely(const float* a, const Columns& b, size_t terms, size_t n, uint32_t* sums) {
  static float most[kMostColumns], unit[kMostColumns], inverse[kMostColumns];
  static float term[kMostTerms + 1][kMostColumns];
  static int32_t total[kMostColumns];
  for (size_t j = 0; j < n; ++j) {
    term[terms][j] = std::bit_cast<float>(sums[j]);
    most[j] = std::fabs(term[terms][j]);
  }
  for (size_t k = 0; k < terms; ++k) {
    for (size_t j = 0; j < n; ++j) {
      term[k][j] = a[k] * b[k][j];  // exact
      // A NaN stays.
      const float size = std::fabs(term[k][j]);
      most[j] = size <= most[j] || std::isnan(most[j]) ? most[j] : size;
    }
  }
  for (size_t j = 0; j < n; ++j) {
    const uint32_t exponent = std::bit_cast<uint32_t>(most[j]) & 0x7f800000u;
    unit[j] = std::bit_cast<float>(exponent) * 0x1p-13f;
    inverse[j] = 0x1p13f / std::bit_cast<float>(exponent);
    total[j] = 0;
  }
  for (size_t k = 0; k <= terms; ++k) {
    for (size_t j = 0; j < n; ++j) {
      const float scaled = term[k][j] * inverse[j];
      total[j] += std::fabs(scaled) < 0x1p15f ? static_cast<int32_t>(scaled) : 0;
    }
  }
  for (size_t j = 0; j < n; ++j) {
    float result = static_cast<float>(total[j]) * unit[j];
    if (!(most[j] < 0x1p100f && most[j] > 0x1p-100f)) {  // zero, infinite, NaN or near to them
      result = 0;
      for (size_t k = 0; k <= terms; ++k) result += term[k][j];
    }
    sums[j] = std::bit_cast<uint32_t>(result);
  }
}

void multiply_integers(const unsigned char (&a)[64][32], const unsigned char (&b)[256][32],
                       size_t n, uint32_t* sums) {
  static int16_t columns[kMostTerms][kMostColumns];
  for (size_t j = 0; j < n; ++j) {
    for (size_t k = 0; k < 32; ++k) columns[k][j] = static_cast<int8_t>(b[j][k]);
  }
  for (size_t row = 0; row < kRows; ++row) {
    uint32_t* const to = sums + row * n;
    for (size_t k = 0; k < 32; ++k) {
      const int32_t factor = static_cast<int8_t>(a[row][k]);
      for (size_t j = 0; j < n; ++j) to[j] += static_cast<uint32_t>(factor * columns[k][j]);
    }
  }
}

}  // namespace

void wgmma_multiply(const WgmmaCall& call, const unsigned char (&a)[64][32],
                    const unsigned char (&b)[256][32], uint32_t* sums) {
  const auto n = static_cast<size_t>(call.n);
  if (call.a_kind == ElementKind::int8) {
    multiply_integers(a, b, n, sums);
    return;
  }
  static Columns columns;
  for (size_t j = 0; j < n; ++j) {
    float row[kMostTerms];
    const size_t terms = decode(call.b_kind, b[j], row);
    for (size_t k = 0; k < terms; ++k) columns[k][j] = row[k];
  }
  for (size_t row = 0; row < kRows; ++row) {
    float factors[kMostTerms];
    const size_t terms = decode(call.a_kind, a[row], factors);
    if (terms == 16) {
      add_exactly(factors, columns, terms, n, sums + row * n);
    } else {
      add_coarsely(factors, columns, terms, n, sums + row * n);
    }
  }
}

}  // namespace qcore::simt
