#!/bin/sh
# pkg_config.sh <pkg-config> <compiler> <libdir of the prefix> <program>: builds the consumer by what
# qcore.pc says, and runs it.
set -e
export PKG_CONFIG_PATH="$3/pkgconfig"
"$2" $CXXFLAGS "$(dirname "$0")/consumer.cpp" $("$1" --cflags --libs qcore) -o "$4"
LD_LIBRARY_PATH="$3" "$4"
