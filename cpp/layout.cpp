// The list of layouts, and the checks of pack and unpack that hold for all of them.
#include "w4a16/layout.h"

#include <string>

#include "checks.h"
#include "cpu/layouts/block16.h"
#include "cpu/layouts/panel16.h"
#include "formats/experts.h"
#include "formats/packing.h"
#include "kquant/packed.h"
#include "qcore/memory.h"

namespace qcore {
namespace {

constexpr const ScaledLayout* kScaledLayouts[] = {&panel16::layout, &w4a16::layout};
constexpr const BlockLayout* kBlockLayouts[] = {&block16::layout, &kquant::layout};
constexpr const Layout* kLayouts[] = {&panel16::layout, &w4a16::layout, &block16::layout,
                                      &kquant::layout};

template <class L>
const L* find(std::span<const L* const> list, int64_t number) {
  for (const L* layout : list) {
    if (layout->number == number) return layout;
  }
  return nullptr;
}

Status no_layout(int number) {
  return Status::invalid("layout: there is no layout " + std::to_string(number));
}

Status check_zeros(const ScaledWeight& shape, const char* argument, const void* zeros) {
  if (shape.has_zeros == (zeros != nullptr) || shape.n == 0) return {};
  return shape.has_zeros ? missing(argument)
                         : Status::invalid(std::string(argument) +
                                           ": expected null, because the weight is symmetric");
}

Status not_on_a_gpu(const Layout& layout) {
  return Status::unsupported(std::string("layout: this build cannot pack or unpack ") +
                             layout.name + " in the memory of a GPU");
}

// Says of which expert an error is.
Status at_expert(const Status& status, int64_t experts, int64_t expert) {
  if (experts == 1) return status;
  return {status.code(), status.message() + ", expert " + std::to_string(expert)};
}

// What the host can see: in the memory of a GPU the packer looks itself.
Status check_values(const ScaledView& weight) {
  const ScaledWeight& shape = weight.shape;
  for (int64_t i = 0; weight.zeros && i < shape.n * shape.groups(); ++i) {
    if (weight.zeros[i] >> shape.bits()) {
      return too_large("zeros", "group", weight.zeros[i], i, shape.groups(), shape.bits());
    }
  }
  const int32_t* perm = weight.codes.perm;
  for (int64_t j = 0; perm && j < shape.k; ++j) {
    if (perm[j] < 0 || perm[j] >= shape.k) {
      return Status::invalid("perm: expected columns in [0, " + std::to_string(shape.k) +
                             "), got " + std::to_string(perm[j]) + " at " + std::to_string(j));
    }
  }
  return {};
}

}  // namespace

std::span<const Layout* const> layouts() {
  return kLayouts;
}

std::span<const ScaledLayout* const> scaled_layouts() {
  return kScaledLayouts;
}

std::span<const BlockLayout* const> block_layouts() {
  return kBlockLayouts;
}

const Layout* find_layout(int64_t number) {
  return find(layouts(), number);
}

const ScaledLayout* find_scaled_layout(int64_t number) {
  return find(scaled_layouts(), number);
}

const BlockLayout* find_block_layout(int64_t number) {
  return find(block_layouts(), number);
}

PackedSizes packed_sizes(const ScaledLayout& layout, const ScaledWeight& shape) {
  if (!shape.check().ok()) return {};
  const PackedSizes one = layout.packed_sizes(shape.of_one_expert());
  const int64_t experts = shape.experts;
  return {experts * one.qweight_bytes, experts * one.scales, experts * one.zeros};
}

int64_t packed_bytes(const BlockLayout& layout, const BlockShape& shape) {
  if (!shape.check().ok()) return 0;
  return shape.experts == 1 ? layout.packed_bytes(shape)
                            : shape.experts * expert_bytes(layout, shape);
}

Status pack(const ScaledLayout& layout, const ScaledView& weight, const PackedBuffers& packed,
            const Executor& executor) {
  const ScaledWeight& shape = weight.shape;
  if (Status status = shape.check(); !status.ok()) return status;
  if (Status status = weight.codes.check(shape); !status.ok()) return status;
  if (Status status = check_zeros(shape, "zeros", weight.zeros); !status.ok()) return status;
  if (Status status = check_zeros(shape, "packed.zeros", packed.zeros); !status.ok()) return status;
  const auto run = executor.device == Device::cuda ? layout.cuda_pack : layout.pack;
  if (!run) return not_on_a_gpu(layout);
  if (shape.n == 0) return {};
  if (!weight.codes.data) return missing("codes");
  if (!weight.scales) return missing("scales");
  if (!packed.qweight) return missing("packed.qweight");
  if (!packed.scales) return missing("packed.scales");
  if (executor.device == Device::cpu) {
    want_huge_pages(packed.qweight, packed_sizes(layout, shape).qweight_bytes);
  }
  const ScaledWeight one = shape.of_one_expert();
  const PackedSizes sizes = layout.packed_sizes(one);
  const int64_t scale_bytes = size_of(one.scale_dtype), parameters = one.n * one.groups();
  for (int64_t e = 0; e < shape.experts; ++e) {
    ScaledView view{one, weight.codes, advance(weight.scales, e * parameters * scale_bytes),
                    advance(weight.zeros, e * parameters)};
    if (e > 0) view.codes.data = advance(weight.codes.data, e * one.n * one.k);  // in plain order
    const PackedBuffers to{advance(packed.qweight, e * sizes.qweight_bytes),
                           advance(packed.scales, e * sizes.scales * scale_bytes),
                           advance(packed.zeros, e * sizes.zeros)};
    Status status = executor.device == Device::cpu ? check_values(view) : Status();
    if (status.ok()) status = run(view, to, executor);
    if (!status.ok()) return at_expert(status, shape.experts, e);
  }
  return {};
}

Status unpack(const PackedScaled& packed, uint8_t* codes, void* scales, uint8_t* zeros,
              const Executor& executor) {
  const ScaledWeight& shape = packed.shape;
  if (Status status = shape.check(); !status.ok()) return status;
  const ScaledLayout* layout = find_scaled_layout(packed.layout);
  if (!layout) return no_layout(packed.layout);
  if (Status status = check_zeros(shape, "zeros", zeros); !status.ok()) return status;
  if (Status status = check_zeros(shape, "packed.zeros", packed.zeros); !status.ok()) return status;
  const auto run = executor.device == Device::cuda ? layout->cuda_unpack : layout->unpack;
  if (!run) return not_on_a_gpu(*layout);
  if (shape.n == 0) return {};
  if (!packed.qweight) return missing("packed.qweight");
  if (!packed.scales) return missing("packed.scales");
  if (!codes) return missing("codes");
  if (!scales) return missing("scales");
  const ScaledWeight one = shape.of_one_expert();
  const PackedSizes sizes = layout->packed_sizes(one);
  const int64_t parameters = one.n * one.groups();
  for (int64_t e = 0; e < shape.experts; ++e) {
    const Status status = run(expert_of(packed, sizes, e), codes + e * one.n * one.k,
                              advance(scales, e * parameters * size_of(one.scale_dtype)),
                              advance(zeros, e * parameters), executor);
    if (!status.ok()) return status;
  }
  return {};
}

Status pack(const BlockLayout& layout, const BlockShape& shape, const void* blocks, void* packed,
            const Executor& executor) {
  const auto run = executor.device == Device::cuda ? layout.cuda_pack : layout.pack;
  if (Status status = shape.check(); !status.ok()) return status;
  if (!run) return not_on_a_gpu(layout);
  if (shape.n == 0) return {};
  if (!blocks) return missing("blocks");
  if (!packed) return missing("packed");
  if (executor.device == Device::cpu) want_huge_pages(packed, packed_bytes(layout, shape));
  const BlockShape one = shape.of_one_expert();
  for (int64_t e = 0; e < shape.experts; ++e) {
    const Status status = run(one, advance(blocks, e * one.bytes()),
                              advance(packed, e * expert_bytes(layout, shape)), executor);
    if (!status.ok()) return status;
  }
  return {};
}

Status unpack(const PackedBlocks& packed, void* blocks, const Executor& executor) {
  if (Status status = packed.shape.check(); !status.ok()) return status;
  const BlockLayout* layout = find_block_layout(packed.layout);
  if (!layout) return no_layout(packed.layout);
  const auto run = executor.device == Device::cuda ? layout->cuda_unpack : layout->unpack;
  if (!run) return not_on_a_gpu(*layout);
  if (packed.shape.n == 0) return {};
  if (!packed.data) return missing("packed.data");
  if (!blocks) return missing("blocks");
  const BlockShape one = packed.shape.of_one_expert();
  for (int64_t e = 0; e < packed.shape.experts; ++e) {
    const PackedBlocks from{one, packed.layout,
                            advance(packed.data, e * expert_bytes(*layout, packed.shape))};
    const Status status = run(from, advance(blocks, e * one.bytes()), executor);
    if (!status.ok()) return status;
  }
  return {};
}

}  // namespace qcore
