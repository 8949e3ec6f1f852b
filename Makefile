# Every target does its own set-up on a fresh machine: the system's packages (as root; otherwise it names
# them), a virtual environment, torch, the build of the package. A second run only repeats what changed.
#
#   make demo     quantize the bundled model and show what came out; DEMO_ARGS=--all for every number of bits
#   make test     all tests: Python (pytest) and C++ (ctest)
#   make ctest    the C++ tests alone
#   make fuzz     damaged GGUF files and folders, for FUZZ_SECONDS
#   make bench    the C++ microbenchmarks
#   make peers    build llama.cpp for this machine, run the tests that compare with it
#   make lint     formatting, ruff, mypy       make format   repair the formatting
#   make wheel    dist/*.whl
#
# The CUDA kernels are minutes of nvcc. They are compiled on a machine with a GPU, for a wheel, and for
# `make test`, whose gate reads their machine code. QCORE_CUDA=OFF, AUTO or ON says otherwise.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEED := PYTHON='$(PYTHON)' sh third_party/system-packages.sh
CONSTRAINTS := $(CURDIR)/third_party/constraints.txt
# Both names: older pips read the first one in isolated builds too, newer ones want the second.
export PIP_CONSTRAINT := $(CONSTRAINTS)
export PIP_BUILD_CONSTRAINT := $(CONSTRAINTS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

# The stamp of an installed package says how it was built; one that has the kernels keeps them.
GPU := $(or $(wildcard /dev/nvidia[0-9]*),$(shell nvidia-smi -L 2>/dev/null | grep '^GPU'))
KERNELS := $(GPU)$(filter all test,$(or $(MAKECMDGOALS),all))$(wildcard $(VENV)/.qcore-AUTO $(VENV)/.qcore-ON)
ifeq ($(origin QCORE_CUDA),undefined)
QCORE_CUDA := $(if $(KERNELS),AUTO,OFF)
endif
# The build tree of the preset `test` serves the extension and the C++ tests: nothing is compiled twice.
SETTINGS = --config-settings=build-dir=build/test --config-settings=build.targets=_C \
           --config-settings=cmake.define.QCORE_BUILD_PYTHON=ON --config-settings=cmake.define.QCORE_CUDA=$(QCORE_CUDA)
JOBS := $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 8 ? n : 8)))
PYTEST_JOBS := -n $(JOBS) --dist worksteal

NATIVE := $(shell find cpp cuda cmake third_party python/csrc -type f) CMakeLists.txt
CPP_FILES = $(shell find cpp cuda python/csrc tests bench -name '*.cpp' -o -name '*.h' -o -name '*.cu' \
              -o -name '*.cuh')
PYTHON_FILES := $(shell find python/qcore -name '*.py')

.PHONY: all setup need-test need-bench demo test ctest pytest fuzz bench peers lint format wheel clean
.DELETE_ON_ERROR:
.NOTPARALLEL:
all: test

setup: $(VENV)/.qcore-$(QCORE_CUDA)

# What the system must have, checked before anything is made.
need-test need-bench: need-%:
	@$(NEED) build $*

$(VENV)/.python:
	@$(NEED) build
	$(PYTHON) -m venv $(VENV)
	touch $@

# Build tools and torch first, so that the package builds against this torch without isolation.
$(VENV)/.tools: $(VENV)/.python $(CONSTRAINTS)
	$(BIN)/pip install --quiet torch scikit-build-core pybind11 'cmake>=3.25' ninja
	touch $@

$(VENV)/.qcore-%: $(VENV)/.tools $(NATIVE) $(PYTHON_FILES) pyproject.toml
	rm -f $(VENV)/.qcore-*
	$(BIN)/pip install --quiet --no-build-isolation $(SETTINGS) '.[dev]'
	touch $@

demo: setup
	$(BIN)/python bench/demo.py $(DEMO_ARGS)

test: ctest pytest

pytest: need-test setup
	$(BIN)/python -m pytest $(PYTEST_JOBS) $(PYTEST_ARGS)

ctest: need-test $(VENV)/.tools
	cmake --preset test --log-level=WARNING -DQCORE_CUDA=$(QCORE_CUDA) $(CMAKE_ARGS)
	cmake --build --preset test
	ctest --preset test -j $(JOBS)

FUZZ_SECONDS ?= 40

fuzz: setup
	$(BIN)/python tests/fuzz_gguf.py --seconds $$(($(FUZZ_SECONDS) / 2))
	$(BIN)/python tests/fuzz_folders.py --seconds $$(($(FUZZ_SECONDS) / 2))

bench: need-bench $(VENV)/.tools
	cmake --preset bench --log-level=WARNING -DQCORE_CUDA=$(QCORE_CUDA) $(CMAKE_ARGS)
	cmake --build --preset bench
	@for program in build/bench/bench/bench_*; do \
	  if [ -f $$program ] && [ -x $$program ]; then $$program $(BENCH_ARGS) || exit 1; fi; done

# llama-cpp-python comes as source and takes minutes to build, so neither setup nor test asks for it.
$(VENV)/.peers: $(VENV)/.qcore-$(QCORE_CUDA)
	CMAKE_ARGS=-DGGML_NATIVE=ON $(BIN)/pip install --quiet --no-build-isolation $(SETTINGS) \
	  --no-binary llama-cpp-python '.[dev,peers]'
	touch $@

peers: need-test $(VENV)/.peers
	$(BIN)/python -m pytest -m peers $(PYTEST_ARGS)

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
