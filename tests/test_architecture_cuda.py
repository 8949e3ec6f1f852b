"""Who may include whom inside of cuda/. The lists here are the design; extend them with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import REPOSITORY

CUDA = REPOSITORY / "cuda"

# A folder may include itself and what stands before it. Folders of one line do not know each other.
LAYERS = (
    {"ptx"},  # instructions, and the facts about them
    {"runtime"},  # devices and launches
    {"tile"},  # what matrix kernels share
    {"quantize"},
    {"kquant", "scaled", "w4a16"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

# Only these see the CUDA runtime: what is launched is kept apart from who launches it, so that the emulator
# can take its place. Beside them: the .cu files, and the headers that instantiate kernels for these.
LAUNCH = re.compile(r"runtime/|rows\.cpp$|.*\.cu$|.*_(instances|kernels)\.cuh$")

FILES = sorted(path for path in CUDA.rglob("*") if path.suffix in {".h", ".cpp", ".cu", ".cuh"})


def name_of(path: Path) -> str:
    return path.relative_to(CUDA).as_posix()


def included(path: Path) -> Iterator[str]:
    """Files of cuda/ that a file includes, by their path in it."""
    for name in re.findall(r'#\s*include\s*"(.*)"', path.read_text()):
        if (CUDA / name).is_file():
            yield name
        else:  # of the core, or of the emulator
            assert not (path.parent / name).is_file(), f"name {name} by its path in cuda/"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_layers(path: Path) -> None:
    folder = name_of(path).rpartition("/")[0]
    if not folder:  # the list of rows knows all
        return
    assert folder in RANK, f"place {folder} in LAYERS"
    for name in included(path):
        other = name.rpartition("/")[0]
        assert other in RANK, f"{folder} must not include {name}"
        assert other == folder or RANK[other] < RANK[folder], f"{folder} must not include {name}"
        if other == "runtime":
            assert LAUNCH.match(name_of(path)), f"{name_of(path)} must not know how kernels are launched"


def test_every_layer_is_there() -> None:
    assert {name_of(path).partition("/")[0] for path in FILES if path.parent != CUDA} == set(RANK)


KERNELS = [path for path in FILES if path.suffix == ".cuh" and path.parent != CUDA / "ptx"]


@pytest.mark.parametrize("path", KERNELS, ids=name_of)
def test_kernels_use_instructions_through_ptx(path: Path) -> None:
    """What passes by cuda/ptx would not run in the emulator, or run there unseen."""
    text = path.read_text()
    assert not re.search(r"\b(asm|threadIdx|blockIdx|__shared__|__sync\w+|__shfl\w*)\b", text)
    if not path.name.startswith("launch"):
        assert not re.search(r"cuda_runtime|__global__|__device__", text)


@pytest.mark.parametrize("path", sorted((CUDA / "ptx").glob("*.cuh")), ids=name_of)
def test_every_file_of_instructions_has_a_twin(path: Path) -> None:
    assert (REPOSITORY / "tests" / "simt" / "ptx" / f"{path.stem}.h").is_file()
    assert f'#include "simt/ptx/{path.stem}.h"' in path.read_text()
