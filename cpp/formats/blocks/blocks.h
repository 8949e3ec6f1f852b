// Every codec; blocks.def lists them.
#pragma once

#include "formats/blocks/iq4.h"
#include "formats/blocks/mxfp4.h"
#include "formats/blocks/q2_k.h"
#include "formats/blocks/q3_k.h"
#include "formats/blocks/q4.h"
#include "formats/blocks/q4_k.h"
#include "formats/blocks/q5.h"
#include "formats/blocks/q6_k.h"
#include "formats/blocks/q8.h"
#include "formats/blocks/tq.h"
