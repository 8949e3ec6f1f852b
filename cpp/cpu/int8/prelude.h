// What the loops of op "int8" need from outside, included before a target region is opened: code
// here is compiled for any machine and may be shared.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "cpu/aligned.h"
#include "cpu/float16.h"
#include "cpu/float_mode.h"
#include "cpu/int8_cpu.h"
#include "cpu/quantize_cpu.h"
#include "target.h"
