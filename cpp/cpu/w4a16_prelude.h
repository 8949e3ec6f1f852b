// What w4a16_loops.h needs from outside, included before a target region is opened: code here is
// compiled for any machine and may be shared.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "cpu/aligned.h"
#include "cpu/float_mode.h"
#include "cpu/panel16.h"
#include "cpu/w4a16_cpu.h"
#include "target.h"
