#!/bin/sh
# isa_isolation.sh OBJDUMP LIBRARY: fails if code that is shared between instruction sets was compiled for
# one of them. AVX code (mnemonics with v, registers xmm/ymm/zmm) may appear only in functions of the
# namespaces avx2, avxvnni and avx512, and zmm only in avx512: the linker keeps one copy of a shared function,
# and a machine without AVX would run it.
set -eu
"$1" -d -C --no-show-raw-insn "$2" | awk '
  /^[0-9a-f]+ </ { f = $0; sub(/^[0-9a-f]+ /, "", f); functions++; next }
  /\t(\{[a-z0-9]+\} )?v[a-z0-9]+[ \t].*%[xyz]mm/ {
    if (f ~ /qcore::avx512::/) { avx512++; next }
    if (f ~ /qcore::avxvnni::/ && $0 !~ /%zmm/) { avxvnni++; next }
    if (f ~ /qcore::avx2::/ && $0 !~ /%zmm/) { avx2++; next }
    if (!(f in seen)) { print "AVX code in " f ": " $0; seen[f] = 1; bad = 1 }
  }
  END {
    print functions " functions, " avx512 + 0 " instructions of avx512, " avx2 + 0 " of avx2, " avxvnni + 0 " of avxvnni"
    if (!avx512 || !avx2 || !avxvnni) { print "found no AVX code: is the library right?"; bad = 1 }
    exit bad
  }'
