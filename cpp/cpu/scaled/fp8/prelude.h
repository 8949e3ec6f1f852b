// What the loops of op "fp8" need from outside, included before a target region is opened: code
// here is compiled for any machine and may be shared.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "cpu/aligned.h"
#include "cpu/quantize/kernels.h"
#include "cpu/scaled/kernels.h"
#include "cpu/simd/target.h"
#include "numerics/float16.h"
#include "numerics/float8.h"
#include "numerics/float_mode.h"
