"""Who may include whom in C++ and CUDA. The lists here are the design; extend them with it."""

from __future__ import annotations

import re

import pytest

from conftest import REPOSITORY

# A room may include its own files, and those of the rooms named here. The first one that a path
# starts with is its room.
ROOMS = {
    "cpp/include/qcore": set(),  # the public headers; every room sees them
    "cpp/numerics": set(),
    "cpp/formats": {"cpp/numerics"},
    "cpp/cpu": {"cpp/numerics", "cpp/formats"},
    "cuda": {"cpp/numerics", "cpp/formats"},
    # The registry, and the file of each op that checks arguments and runs the selected row.
    "cpp": {"cpp/numerics", "cpp/formats", "cpp/cpu", "cuda"},
}

# In cpp/cpu an op knows what all ops share, the files beside the folders among it, and of other ops
# what is named here.
SHARED_ON_CPU = {"layouts", "simd", ""}
OTHER_OPS = {
    "scaled": {"quantize"},  # a product may quantize its activations itself
}

FOLDERS = ("cpp", "cuda")
INCLUDE_PATHS = ("cpp", "cpp/include", "cuda")
NATIVE = sorted(
    path
    for folder in FOLDERS
    for path in (REPOSITORY / folder).rglob("*")
    if path.suffix in {".h", ".cpp", ".cu", ".cuh"}
)
FILES = {path.relative_to(REPOSITORY).as_posix() for path in NATIVE}
NATIVE_FILES = pytest.mark.parametrize("path", sorted(FILES))


def room_of(path: str) -> str:
    return next(room for room in ROOMS if path.startswith(room + "/"))


def included_by(path: str) -> list[str]:
    """The files of this repository that a file includes, by their paths in it."""
    found = []
    for name in re.findall(r'#\s*include\s*"([^"]+)"', (REPOSITORY / path).read_text()):
        matches = [f"{root}/{name}" for root in INCLUDE_PATHS]
        matches = [match for match in matches if (REPOSITORY / match).is_file()]
        if name.startswith("simt/"):  # the emulator's twins of cuda/ptx
            continue
        if name == "cuda_built.h":  # made by CMake from cuda/cuda_built.h.in
            continue
        assert len(matches) == 1, f"{path} includes {name}, which is {matches or 'nowhere'}"
        found += matches
    return found


@NATIVE_FILES
def test_layers(path: str) -> None:
    room = room_of(path)
    for target in included_by(path):
        allowed = ROOMS[room] | {room, "cpp/include/qcore"}
        assert room_of(target) in allowed, f"{path} must not include {target}"


def part_on_cpu(path: str) -> str:
    return path.removeprefix("cpp/cpu/").rpartition("/")[0].split("/")[0]


@pytest.mark.parametrize("path", sorted(f for f in FILES if f.startswith("cpp/cpu/")))
def test_ops_on_the_cpu_know_each_other_by_name_only(path: str) -> None:
    part = part_on_cpu(path)
    for target in included_by(path):
        if not target.startswith("cpp/cpu/"):
            continue
        other = part_on_cpu(target)
        if part in SHARED_ON_CPU:
            assert other in SHARED_ON_CPU, f"{path} must not include {target}"
        else:
            allowed = SHARED_ON_CPU | {part} | OTHER_OPS.get(part, set())
            assert other in allowed, f"{path} must not include {target}"


def test_every_room_is_there() -> None:
    for room in ROOMS:
        assert any(room_of(path) == room for path in FILES), room


@NATIVE_FILES
def test_who_asks_for_cuda_includes_the_answer(path: str) -> None:
    """Without the header the preprocessor takes the name for 0."""
    text = (REPOSITORY / path).read_text()
    assert "QCORE_HAVE_CUDA" not in text or '#include "cuda_built.h"' in text


@NATIVE_FILES
def test_core_never_sees_torch_or_python(path: str) -> None:
    text = (REPOSITORY / path).read_text()
    assert not re.search(r'#\s*include\s*[<"](torch|ATen|c10|caffe2|pybind11|Python\.h)', text)
    assert not re.search(r"\b(at|c10|torch)::", text)


def test_binding_keeps_to_the_stable_abi() -> None:
    for path in (REPOSITORY / "python" / "csrc").glob("*"):
        for header in re.findall(r"#include <((?:torch|ATen|c10)/.*)>", path.read_text()):
            assert header.startswith(("torch/csrc/stable/", "torch/headeronly/")), header
