#include "kquant/plan.h"

#include <limits>

#include "kquant/variant.h"

namespace qcore::kquant {
namespace {

tile::Work work_of(const KquantArgs& args) {
  const BlockFormat& format = *args.weight.shape.format;
  const Geometry g = geometry_of(args.weight.shape);
  return {.m = args.m,
          .n = g.n,
          .chunks = g.chunks(),
          .chunk_columns = g.traits.chunk_columns(),
          .bits = static_cast<int>(ceil_div(format.bytes * 8, format.elements)),
          .gather = !tile::activations_fit(args.x, args.m, args.x_stride, g.k),
          .batch_invariant = false,
          .variants = kVariants,
          .shared_bytes =
              [&format](tile::VariantKey key) {
                return with_block(format, [&]<class Block>() {
                  int bytes = std::numeric_limits<int>::max();
                  with_variant<Block>(key, [&]<class V>() { bytes = V::kSharedBytes; });
                  return bytes;
                });
              },
          .experts = args.weight.shape.experts};
}

}  // namespace

tile::Plan choose_plan(const KquantArgs& args, const tile::DeviceLimits& limits) {
  return tile::choose_plan(work_of(args), limits);
}

tile::Plan make_plan(const KquantArgs& args, tile::VariantKey variant, int splits) {
  return tile::make_plan(work_of(args), variant, splits);
}

Status supports(const Kquant::Problem& problem) {
  if (Status status = problem.weight.check(); !status.ok()) return status;
  if (problem.m > 0 && problem.dtype == DType::f32) {  // packing does not know the dtype yet
    return Status::unsupported("multiplies fp16 and bf16 activations, these are fp32");
  }
  if (Status status = tile::takes_one_expert(problem.weight.experts); !status.ok()) return status;
  const Geometry g = geometry_of(problem.weight);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (problem.m > kMost / 2 || g.padded_k() > kMost / 2 || g.bytes() / 16 > kMost ||
      problem.m * (g.padded_k() / 8) > 2 * kMost) {
    return Status::unsupported("counts in 32 bits, and this weight or batch is larger");
  }
  return {};
}

}  // namespace qcore::kquant
