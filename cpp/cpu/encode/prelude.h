// What the encoders need from outside, included before a target region is opened: code here is
// compiled for any machine and may be shared.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/encode/encode.h"
#include "cpu/simd/target.h"
#include "formats/blocks/blocks.h"
#include "numerics/float_mode.h"
