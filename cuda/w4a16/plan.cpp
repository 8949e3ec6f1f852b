#include "w4a16/plan.h"

#include <limits>
#include <string>

namespace qcore::w4a16 {
namespace {

tile::Work work_of(const W4A16Args& args) {
  const ScaledWeight& w = args.weight.shape;
  const Geometry g(w);
  return {.m = args.m,
          .n = g.n,
          .chunks = g.chunks,
          .chunk_columns = chunk_columns(w.bits()),
          .bits = stored_bits(w.bits()),
          .gather = must_gather(args, g),
          .batch_invariant = args.batch_invariant,
          .variants = kVariants,
          .shared_bytes =
              [&w](tile::VariantKey key) {
                int bytes = std::numeric_limits<int>::max();
                with_variant(w, key, [&]<class V>() {
                  bytes = V::shared_bytes(w.scale_dtype, w.has_zeros);
                });
                return bytes;
              },
          .experts = w.experts};
}

}  // namespace

bool must_gather(const W4A16Args& args, const Geometry& g) {
  return args.perm || g.columns_move() ||
         !tile::activations_fit(args.x, args.m, args.x_stride, g.k);
}

tile::Plan choose_plan(const W4A16Args& args, const tile::DeviceLimits& limits) {
  return tile::choose_plan(work_of(args), limits);
}

tile::Plan make_plan(const W4A16Args& args, tile::VariantKey variant, int splits) {
  return tile::make_plan(work_of(args), variant, splits);
}

Status supports(const W4A16::Problem& problem) {
  const ScaledWeight& w = problem.weight;
  if (Status status = w.check(); !status.ok()) return status;
  if (problem.m > 0 && problem.dtype == DType::f32) {  // packing does not know the dtype yet
    return Status::unsupported("multiplies fp16 and bf16 activations, these are fp32");
  }
  if (Status status = tile::takes_one_expert(w.experts); !status.ok()) return status;
  const Geometry g(w);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (problem.m > kMost / 2 || g.halves > kMost / 2 || g.qweight_bytes() / 16 > kMost ||
      g.parameters() / 4 > kMost || problem.m * (g.padded_k() / 8) > 2 * kMost) {
    return Status::unsupported("counts in 32 bits, and this weight or batch is larger");
  }
  return {};
}

W4A16Args args_of(const W4A16::Problem& problem) {
  return {.m = problem.m,
          .dtype = problem.dtype,
          .x_stride = ceil_div(problem.weight.k, 8) * 8,
          .weight = {.shape = problem.weight},
          .batch_invariant = problem.batch_invariant};
}

std::string describe_plan(const W4A16::Problem& problem) {
  if (problem.multiprocessors == 0 || problem.m == 0 || problem.weight.n == 0) return "";
  const tile::Plan plan =
      choose_plan(args_of(problem), {.multiprocessors = problem.multiprocessors,
                                     .shared_bytes = tile::shared_bytes_of(problem.sm)});
  return std::to_string(plan.slices * plan.token_blocks * plan.splits) + " blocks of " +
         std::to_string(rows_of(plan.variant)) + " rows x " +
         std::to_string(plan.variant.token_tiles * 8) + " tokens, K cut into " +
         std::to_string(plan.splits) + ", " + std::to_string(plan.variant.warps_k) +
         " warps of a block along it" + (plan.gather ? ", activations gathered first" : "");
}

Status check_memory(const W4A16Args& args, int64_t workspace_bytes) {
  const struct {
    const char* name;
    const void* pointer;
  } arguments[] = {{"weight.qweight", args.weight.qweight},
                   {"weight.scales", args.weight.scales},
                   {"weight.zeros", args.weight.zeros},
                   {"workspace", args.workspace}};
  for (const auto& argument : arguments) {
    if (reinterpret_cast<uintptr_t>(argument.pointer) % 16 != 0) {
      return Status::invalid(std::string(argument.name) + ": expected 16-byte aligned memory");
    }
  }
  if (workspace_bytes > 0 && !args.workspace) {
    return Status::invalid("workspace: expected " + std::to_string(workspace_bytes) +
                           " bytes, got null");
  }
  return {};
}

}  // namespace qcore::w4a16
