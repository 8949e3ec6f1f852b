// Packs and unpacks fragment16 in the memory of a GPU, by the functions of layout.h that the host
// packer uses too: the bytes are the same.
#pragma once

#include "tile/elements.cuh"
#include "tile/scalars.cuh"
#include "w4a16/layout.h"

namespace qcore::w4a16 {

struct PackCodesParams {
  Geometry geometry;
  ScaledWeight shape;
  CodeSource source;
  uint32_t* qweight;
  uint32_t* bad;  // becomes 1 if a code is too large or a permutation names no column
};
struct PackCodes {
  using Params = PackCodesParams;
  static constexpr int kThreads = tile::kElementThreads, kMinBlocks = 1;

  static int64_t count(const Geometry& g) { return g.qweight_bytes() / 4; }
  QCORE_DEVICE static void run(const Params& p) {
    tile::for_each_element(p.geometry.qweight_bytes() / 4, [&](int64_t i) {
      const auto bad = [&](int64_t, int64_t) { ptx::store_global(p.bad, 1u); };
      ptx::store_global(p.qweight + i,
                        pack_word(p.geometry, p.shape, p.source, i, GlobalLoad{}, bad));
    });
  }
};

struct UnpackCodesParams {
  Geometry geometry;
  const void* qweight;
  uint8_t* codes;
};
struct UnpackCodes {
  using Params = UnpackCodesParams;
  static constexpr int kThreads = tile::kElementThreads, kMinBlocks = 1;

  static int64_t count(const Geometry& g) { return g.n * g.k; }
  QCORE_DEVICE static void run(const Params& p) {
    const Geometry& g = p.geometry;
    tile::for_each_element(g.n * g.k, [&](int64_t i) {
      ptx::store_global(p.codes + i, unpack_code(g, p.qweight, i / g.k, i % g.k, GlobalLoad{}));
    });
  }
};

// Scales, as bits, and zero points: T is an unsigned integer of their size.
template <class T>
struct ParametersParams {
  Geometry geometry;
  const T* from;
  T* to;
  T limit;  // packing: larger ones are bad
  uint32_t* bad;
};
template <class T>
struct PackParameters {
  using Params = ParametersParams<T>;
  static constexpr int kThreads = tile::kElementThreads, kMinBlocks = 1;

  static int64_t count(const Geometry& g) { return g.parameters(); }
  QCORE_DEVICE static void run(const Params& p) {
    const Geometry& g = p.geometry;
    tile::for_each_element(g.parameters(), [&](int64_t i) {
      const Parameter at = parameter_at(g, i);
      const T value = at.n < g.n ? ptx::load_global(p.from + at.n * g.groups + at.group) : T{0};
      if (value > p.limit) ptx::store_global(p.bad, 1u);
      ptx::store_global(p.to + i, value);
    });
  }
};
template <class T>
struct UnpackParameters {
  using Params = ParametersParams<T>;
  static constexpr int kThreads = tile::kElementThreads, kMinBlocks = 1;

  static int64_t count(const Geometry& g) { return g.n * g.groups; }
  QCORE_DEVICE static void run(const Params& p) {
    const Geometry& g = p.geometry;
    tile::for_each_element(g.n * g.groups, [&](int64_t i) {
      ptx::store_global(p.to + i,
                        ptx::load_global(p.from + g.parameter(i / g.groups, i % g.groups)));
    });
  }
};

// The launches that pack a weight, and unpack it. `launch` as in run.h. `bad` is two words that are
// 0: the first becomes 1 for a bad code or column, the second for a bad zero point.
template <class Launch>
Status run_pack(const ScaledView& weight, const PackedBuffers& packed, uint32_t* bad,
                const Launch& launch) {
  const Geometry g(weight.shape);
  const auto parameters = [&]<class T>(const void* from, void* to, T limit) {
    return launch.template operator()<PackParameters<T>>(
        tile::element_blocks(PackParameters<T>::count(g)), 0,
        {g, static_cast<const T*>(from), static_cast<T*>(to), limit, bad + 1});
  };
  Status status = launch.template operator()<PackCodes>(
      tile::element_blocks(PackCodes::count(g)), 0,
      {g, weight.shape, weight.codes, static_cast<uint32_t*>(packed.qweight), bad});
  if (!status.ok()) return status;
  status = size_of(weight.shape.scale_dtype) == 4
               ? parameters(weight.scales, packed.scales, ~uint32_t{0})
               : parameters(weight.scales, packed.scales, static_cast<uint16_t>(~0u));
  if (!status.ok() || !weight.zeros) return status;
  return parameters(weight.zeros, packed.zeros,
                    static_cast<uint8_t>((1 << weight.shape.bits()) - 1));
}

template <class Launch>
Status run_unpack(const PackedScaled& packed, uint8_t* codes, void* scales, uint8_t* zeros,
                  const Launch& launch) {
  const Geometry g(packed.shape);
  const auto parameters = [&]<class T>(const void* from, T* to) {
    return launch.template operator()<UnpackParameters<T>>(
        tile::element_blocks(UnpackParameters<T>::count(g)), 0,
        {g, static_cast<const T*>(from), to, T{0}, nullptr});
  };
  Status status = launch.template operator()<UnpackCodes>(
      tile::element_blocks(UnpackCodes::count(g)), 0, {g, packed.qweight, codes});
  if (!status.ok()) return status;
  status = size_of(packed.shape.scale_dtype) == 4
               ? parameters(packed.scales, static_cast<uint32_t*>(scales))
               : parameters(packed.scales, static_cast<uint16_t*>(scales));
  if (!status.ok() || !zeros) return status;
  return parameters(packed.zeros, zeros);
}

}  // namespace qcore::w4a16
