// Packs codes into fragment16 in host memory, and back. The positions are in layout.h.
#include "w4a16/layout.h"

#include <cstring>

#include "cuda_built.h"
#include "formats/packing.h"

namespace qcore::w4a16 {
namespace {

// [N, G] elements of T to the packed order, and back.
template <class T>
void pack_parameters(const Geometry& g, int64_t begin, int64_t end, const void* from, void* to) {
  for (int64_t i = begin; i < end; ++i) {
    const Parameter p = parameter_at(g, i);
    static_cast<T*>(to)[i] =
        p.n < g.n ? static_cast<const T*>(from)[p.n * g.groups + p.group] : T{0};
  }
}
template <class T>
void unpack_parameters(const Geometry& g, int64_t n, const void* from, void* to) {
  for (int64_t group = 0; group < g.groups; ++group) {
    static_cast<T*>(to)[n * g.groups + group] = static_cast<const T*>(from)[g.parameter(n, group)];
  }
}

// Scales travel as bits.
bool wide(const ScaledWeight& shape) {
  return size_of(shape.scale_dtype) == 4;
}

}  // namespace

PackedSizes packed_sizes(const ScaledWeight& shape) {
  if (!shape.check().ok()) return {};
  const Geometry g(shape);
  return {g.qweight_bytes(), g.parameters(), shape.has_zeros ? g.parameters() : 0};
}

Status pack(const ScaledView& weight, const PackedBuffers& packed, const Executor& executor) {
  const Geometry g(weight.shape);
  FirstBadCode first_bad;
  const auto bad = [&](int64_t n, int64_t k) { first_bad.report(n * g.k + k); };
  // A panel at a time.
  const int64_t words = g.qweight_bytes() / 4 / g.panels, parameters = g.groups * kPanelRows;
  executor.parallel.for_range(g.panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * words; i < end * words; ++i) {
      static_cast<uint32_t*>(packed.qweight)[i] =
          pack_word(g, weight.shape, weight.codes, i, HostLoad{}, bad);
    }
    const int64_t first = begin * parameters, last = end * parameters;
    const auto pack_scales =
        wide(weight.shape) ? pack_parameters<uint32_t> : pack_parameters<uint16_t>;
    pack_scales(g, first, last, weight.scales, packed.scales);
    if (weight.zeros) pack_parameters<uint8_t>(g, first, last, weight.zeros, packed.zeros);
  });
  return first_bad.status(weight);
}

Status unpack(const PackedScaled& packed, uint8_t* codes, void* scales, uint8_t* zeros,
              const Executor& executor) {
  const Geometry g(packed.shape);
  executor.parallel.for_range(g.n, kPanelRows, [&](int64_t begin, int64_t end) {
    const auto unpack_scales =
        wide(packed.shape) ? unpack_parameters<uint32_t> : unpack_parameters<uint16_t>;
    for (int64_t n = begin; n < end; ++n) {
      for (int64_t k = 0; k < g.k; ++k) {
        codes[n * g.k + k] = unpack_code(g, packed.qweight, n, k, HostLoad{});
      }
      unpack_scales(g, n, packed.scales, scales);
      if (zeros) unpack_parameters<uint8_t>(g, n, packed.zeros, zeros);
    }
  });
  return {};
}

constinit const ScaledLayout layout{
    {.number = 2, .name = "fragment16", .format = "int_group", .device = Device::cuda},
    packed_sizes,
    pack,
    unpack,
#if QCORE_HAVE_CUDA
    cuda_pack,
    cuda_unpack};
#else
    nullptr,
    nullptr};
#endif

}  // namespace qcore::w4a16
