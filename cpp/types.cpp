#include "qcore/types.h"

#include "qcore/qcore.h"

#ifndef QCORE_VERSION
#define QCORE_VERSION "0.0.0"
#endif

namespace qcore {

const char* name(DType dtype) {
  switch (dtype) {
    case DType::f32: return "f32";
    case DType::f16: return "f16";
    case DType::bf16: return "bf16";
  }
  return "unknown dtype";
}

const char* name(Device device) {
  switch (device) {
    case Device::cpu: return "cpu";
    case Device::cuda: return "cuda";
  }
  return "unknown device";
}

const char* name(Isa isa) {
  switch (isa) {
    case Isa::scalar: return "scalar";
    case Isa::avx2: return "avx2";
    case Isa::avxvnni: return "avxvnni";
    case Isa::avx512: return "avx512";
  }
  return "unknown isa";
}

const char* name(Float8 type) {
  switch (type) {
    case Float8::e4m3: return "e4m3";
    case Float8::e5m2: return "e5m2";
  }
  return "unknown float8";
}

const char* name(Granularity granularity) {
  switch (granularity) {
    case Granularity::tensor: return "tensor";
    case Granularity::row: return "row";
    case Granularity::group: return "group";
    case Granularity::block: return "block";
  }
  return "unknown granularity";
}

const char* version() {
  return QCORE_VERSION;
}

}  // namespace qcore
