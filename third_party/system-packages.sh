#!/bin/sh
# What pip cannot bring: checks every system tool and library that the named groups need, all at once.
# As root with apt-get it installs what is missing; otherwise it prints one line to type and fails.
#
#   system-packages.sh [--check] GROUP...     GROUP: build, test, bench; --check never installs
#
# Headers are looked for where CMake looks. If yours are elsewhere: QCORE_SYSTEM_CHECK=off.
set -eu

# group, Debian package, test
packages() {
  cat <<'END'
build g++               printf '#include <span>\n' | ${CXX:-c++} -std=c++20 -fsyntax-only -x c++ -
build make              command -v make
build python3-venv      $PYTHON -c 'import venv, ensurepip'
build python3-dev       $PYTHON -c 'import sysconfig; open(sysconfig.get_path("include") + "/Python.h")'
test  binutils          command -v readelf && command -v objdump
test  libgtest-dev      package GTest gtest/gtest.h
test  libboost-context-dev  [ "${Boost_DIR-}" ] || printf 'int main() {}' | ${CXX:-c++} -x c++ - -lboost_context -o /dev/null
bench libbenchmark-dev  package benchmark benchmark/benchmark.h
END
}

# package NAME HEADER: is there a NAME_DIR, or the header under a prefix that find_package(NAME) tries?
package() {
  if [ -n "$(printenv "$1_DIR")" ]; then return 0; fi
  for prefix in /usr /usr/local $(printenv "$1_ROOT" CMAKE_PREFIX_PATH | tr ':;' '  ') \
    $(printf %s "$PATH" | tr : '\n' | sed -n 's:/s\{0,1\}bin/*$::p'); do
    if [ -e "$prefix/include/$2" ]; then return 0; fi
  done
  return 1
}

find_missing() {
  packages | while read -r group package test; do
    case " $groups " in
      *" $group "*) (eval "$test") </dev/null >/dev/null 2>&1 || printf ' %s' "$package" ;;
    esac
  done
}

PYTHON=${PYTHON:-python3}
install=yes
if [ "${1-}" = --check ]; then install=no; shift; fi
groups=$*
if [ "${QCORE_SYSTEM_CHECK-}" = off ]; then exit 0; fi

missing=$(find_missing)
if [ -n "$missing" ] && [ $install = yes ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing$missing" >&2
  apt-get update -qq >&2 || true  # an older list may still do
  # shellcheck disable=SC2086 - one word per package
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends $missing >&2
  missing=$(find_missing)
fi
if [ -n "$missing" ]; then
  echo "missing on this system; on Debian or Ubuntu: apt-get install$missing" >&2
  exit 1
fi
$PYTHON -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
  echo "Python 3.10 or newer is needed, $PYTHON is older: make PYTHON=python3.x" >&2
  exit 1
}
