# Every target does its own set-up on a fresh machine: a virtual environment, torch, the build of the
# package. A second run only repeats what changed.
#
#   make demo     quantize the bundled model and show what came out
#   make test     all tests: Python (pytest) and C++ (ctest)
#   make ctest    the C++ tests alone
#   make bench    the C++ microbenchmarks
#   make lint     formatting, ruff, mypy       make format   repair the formatting
#   make wheel    dist/*.whl

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := $(CURDIR)/third_party/constraints.txt
# Both names: older pips read the first one in isolated builds too, newer ones want the second.
export PIP_CONSTRAINT := $(CONSTRAINTS)
export PIP_BUILD_CONSTRAINT := $(CONSTRAINTS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

NATIVE := $(shell find cpp cuda cmake third_party python/csrc -type f) CMakeLists.txt
CPP_FILES = $(shell find cpp cuda python/csrc tests bench -name '*.cpp' -o -name '*.h' -o -name '*.cu' \
              -o -name '*.cuh')
PYTHON_FILES := $(shell find python/qcore -name '*.py')

.PHONY: all setup demo test ctest pytest bench lint format wheel clean
.DELETE_ON_ERROR:
.NOTPARALLEL:
all: test

setup: $(VENV)/.qcore

$(VENV)/.python:
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo 'python3 with venv is missing: apt-get install python3 python3-venv python3-dev' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'Python 3.10 or newer is needed: make PYTHON=python3.x' >&2; exit 1; }
	@$${CXX:-c++} --version >/dev/null 2>&1 || \
	  { echo 'a C++ compiler is missing: apt-get install g++' >&2; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig; p = sysconfig.get_path("include"); \
	  raise SystemExit(not os.path.exists(os.path.join(p, "Python.h")))' || \
	  { echo 'the Python headers are missing: apt-get install python3-dev' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# Build tools and torch first, so that the package builds against this torch without isolation.
$(VENV)/.tools: $(VENV)/.python $(CONSTRAINTS)
	$(BIN)/pip install --quiet torch scikit-build-core pybind11 'cmake>=3.25' ninja
	touch $@

$(VENV)/.qcore: $(VENV)/.tools $(NATIVE) $(PYTHON_FILES) pyproject.toml
	$(BIN)/pip install --quiet --no-build-isolation '.[dev]'
	touch $@

demo: setup
	$(BIN)/python bench/demo.py

test: ctest pytest

pytest: setup
	$(BIN)/python -m pytest $(PYTEST_ARGS)

define need_debian
	@find /usr/include /usr/local/include -path '*$(1)' 2>/dev/null | grep -q . || \
	  { echo '$(2) is missing: apt-get install $(3)' >&2; exit 1; }
endef

ctest: $(VENV)/.tools
	$(call need_debian,gtest/gtest.h,GoogleTest,libgtest-dev)
	cmake --preset test --log-level=WARNING
	cmake --build --preset test
	ctest --preset test

bench: $(VENV)/.tools
	$(call need_debian,benchmark/benchmark.h,Google Benchmark,libbenchmark-dev)
	cmake --preset bench --log-level=WARNING
	cmake --build --preset bench
	@for program in build/bench/bench/bench_*; do \
	  if [ -f $$program ] && [ -x $$program ]; then $$program $(BENCH_ARGS) || exit 1; fi; done

lint: setup
	clang-format --dry-run --Werror $(CPP_FILES)
	ruff format --check .
	ruff check .
	mypy

format: setup
	clang-format -i $(CPP_FILES)
	ruff format .
	ruff check --fix .

wheel: $(VENV)/.tools
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean:
	rm -rf build dist $(VENV)
