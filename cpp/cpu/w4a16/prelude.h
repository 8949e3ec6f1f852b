// What loops.h needs from outside, included before a target region is opened: code here is
// compiled for any machine and may be shared.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "cpu/aligned.h"
#include "cpu/layouts/panel16.h"
#include "cpu/schedule.h"
#include "cpu/simd/target.h"
#include "cpu/w4a16/kernels.h"
