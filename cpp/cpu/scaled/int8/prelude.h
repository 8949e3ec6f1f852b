// What the loops of op "int8" need from outside, included before a target region is opened: code
// here is compiled for any machine and may be shared.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "cpu/aligned.h"
#include "cpu/quantize/kernels.h"
#include "cpu/scaled/kernels.h"
#include "cpu/schedule.h"
#include "cpu/simd/target.h"
#include "numerics/float16.h"
