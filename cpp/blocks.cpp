// The public functions on blocks: check what the codecs rely on, then share the blocks out to
// threads or pass them on to a GPU.
#include "qcore/blocks.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "checks.h"
#include "cpu/encode/encode.h"
#include "cpu/features.h"
#include "cuda_built.h"
#include "kquant/rows.h"
#include "numerics/float16.h"
#include "numerics/float_mode.h"

namespace qcore {
namespace {

// So that the size of the output in bytes, also of float32, fits in int64_t.
constexpr int64_t kMaxBlocks = std::numeric_limits<int64_t>::max() / (kMaxBlockElements * 4);

// What is worth the start of another thread: tens of microseconds.
constexpr int64_t kGrainElements = 16384;
constexpr int64_t kGrainEncoded = 4096;

Status check_count(int64_t count) {
  if (count >= 0 && count <= kMaxBlocks) return {};
  return Status::invalid("count: expected 0 .. " + std::to_string(kMaxBlocks) + ", got " +
                         std::to_string(count));
}

void decode_range(const BlockFormat& format, const void* blocks, int64_t begin, int64_t end,
                  DType dtype, void* out) {
  const ExactSubnormals mode;  // MXFP4 has subnormal scales of normal elements
  const char* from = static_cast<const char*>(blocks) + begin * format.bytes;
  if (dtype == DType::f32) {
    format.decode(from, end - begin, static_cast<float*>(out) + begin * format.elements);
    return;
  }
  float values[kMaxBlockElements];
  for (int64_t block = begin; block < end; ++block, from += format.bytes) {
    format.decode(from, 1, values);
    for (int i = 0; i < format.elements; ++i) {
      store_scalar(dtype, out, block * format.elements + i, values[i]);
    }
  }
}

// The first of n numbers that is infinite or none, or n.
int64_t first_not_finite(const float* values, int64_t n) {
  constexpr uint32_t kMagnitude = 0x7fffffffu, kInfinity = 0x7f800000u;
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::bit_cast<uint32_t>(values[i]) & kMagnitude);
  }
  if (largest < kInfinity) return n;
  return std::find_if(values, values + n, [](float v) { return !std::isfinite(v); }) - values;
}

// Encodes blocks begin .. end - 1 of a matrix with rows of k elements. The first element that is
// not finite, or -1.
int64_t encode_range(const BlockFormat& format, CpuFeatures cpu, DType dtype, const void* w,
                     int64_t k, const float* importance, int64_t begin, int64_t end, void* blocks) {
  float values[kMaxFits * kMaxBlockElements], weights[kMaxFits * kMaxBlockElements];
  for (int64_t block = begin; block < end; block += kMaxFits) {
    const int64_t count = std::min<int64_t>(kMaxFits, end - block);
    const int64_t first = block * format.elements, n = count * format.elements;
    if (dtype == DType::f32) {
      std::memcpy(values, static_cast<const float*>(w) + first, static_cast<size_t>(n) * 4);
    } else {
      for (int64_t i = 0; i < n; ++i) values[i] = load_scalar(dtype, w, first + i);
    }
    if (const int64_t i = first_not_finite(values, n); i < n) return first + i;
    for (int64_t i = 0; importance && i < n; i += format.elements) {
      std::memcpy(weights + i, importance + (first + i) % k,
                  static_cast<size_t>(format.elements) * sizeof(float));
    }
    encode::encode(format, cpu, values, importance ? weights : nullptr, count,
                   static_cast<char*>(blocks) + block * format.bytes);
  }
  return -1;
}

}  // namespace

Status decode_blocks(const BlockFormat& format, const void* blocks, int64_t count, DType dtype,
                     void* out, const Executor& executor) {
  if (Status s = check_count(count); !s.ok()) return s;
  if (Status s = check_float("dtype", dtype); !s.ok()) return s;
  if (count == 0) return {};
  if (!blocks) return missing("blocks");
  if (!out) return missing("out");
  if (executor.device == Device::cuda) {
#if QCORE_HAVE_CUDA
    return kquant::dequantize(format, {blocks, count, dtype, out}, executor);
#else
    return Status::unsupported("blocks: this build cannot decode them in the memory of a GPU");
#endif
  }
  executor.parallel.for_range(
      count, kGrainElements / format.elements,
      [&](int64_t begin, int64_t end) { decode_range(format, blocks, begin, end, dtype, out); });
  return {};
}

Status encode_blocks(const BlockFormat& format, DType dtype, const void* w, int64_t rows, int64_t k,
                     const float* importance, void* blocks, const Parallel& parallel) {
  if (k <= 0 || k % format.elements != 0) {
    return Status::invalid("k: expected a positive multiple of " + std::to_string(format.elements) +
                           ", got " + std::to_string(k));
  }
  const int64_t per_row = k / format.elements;
  if (rows < 0 || rows > kMaxBlocks / per_row) {
    return Status::invalid("rows: expected 0 .. " + std::to_string(kMaxBlocks / per_row) +
                           ", got " + std::to_string(rows));
  }
  if (Status s = check_float("dtype", dtype); !s.ok()) return s;
  const IsaChoice chosen = choose_isa();
  if (!chosen.status.ok()) return chosen.status;
  if (rows == 0) return {};
  if (!w) return missing("w");
  if (!blocks) return missing("blocks");
  for (int64_t i = 0; importance && i < k; ++i) {
    if (!(importance[i] >= 0 && importance[i] <= std::numeric_limits<float>::max())) {
      return Status::invalid("importance: expected finite numbers from 0 on, got " +
                             std::to_string(importance[i]) + " at " + std::to_string(i));
    }
  }
  if (importance &&
      std::all_of(importance, importance + k, [&](float p) { return p == *importance; })) {
    importance = nullptr;  // what is equal says nothing
  }
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> wrong = kNone;  // the first element that is not finite
  parallel.for_range(
      rows * per_row, kGrainEncoded / format.elements, [&](int64_t begin, int64_t end) {
        const int64_t at =
            encode_range(format, chosen.allowed, dtype, w, k, importance, begin, end, blocks);
        int64_t before = wrong.load(std::memory_order_relaxed);
        while (at >= 0 && at < before &&
               !wrong.compare_exchange_weak(before, at, std::memory_order_relaxed)) {
        }
      });
  if (const int64_t at = wrong.load(); at != kNone) {
    return Status::invalid("w: expected finite numbers, got " +
                           std::to_string(load_scalar(dtype, w, at)) + " at row " +
                           std::to_string(at / k) + " column " + std::to_string(at % k));
  }
  return {};
}

Status split_blocks(const BlockFormat& format, const void* blocks, int64_t count, uint8_t* codes,
                    float* scales, float* mins, const Parallel& parallel) {
  if (Status s = check_count(count); !s.ok()) return s;
  if (count == 0) return {};
  if (!blocks) return missing("blocks");
  if (!codes) return missing("codes");
  if (!scales) return missing("scales");
  if (!mins) return missing("mins");
  const int64_t groups = format.elements / format.group;
  parallel.for_range(count, kGrainElements / format.elements, [&](int64_t begin, int64_t end) {
    const ExactSubnormals mode;
    format.split(static_cast<const char*>(blocks) + begin * format.bytes, end - begin,
                 codes + begin * format.elements, scales + begin * groups, mins + begin * groups);
  });
  return {};
}

Status join_blocks(const BlockFormat& format, void* blocks, int64_t count, const uint8_t* codes,
                   const Parallel& parallel) {
  if (Status s = check_count(count); !s.ok()) return s;
  if (count == 0) return {};
  if (!blocks) return missing("blocks");
  if (!codes) return missing("codes");
  const uint8_t* end_of_codes = codes + count * format.elements;
  const uint8_t* wrong =
      std::find_if(codes, end_of_codes, [&](uint8_t code) { return code >= format.codes; });
  if (wrong != end_of_codes) {
    return Status::invalid("codes: expected 0 .. " + std::to_string(format.codes - 1) + ", got " +
                           std::to_string(*wrong) + " at " + std::to_string(wrong - codes));
  }
  parallel.for_range(count, kGrainElements / format.elements, [&](int64_t begin, int64_t end) {
    format.join(static_cast<char*>(blocks) + begin * format.bytes, end - begin,
                codes + begin * format.elements);
  });
  return {};
}

}  // namespace qcore
