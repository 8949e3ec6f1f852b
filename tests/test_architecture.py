"""Who may include or import whom. The lists here are the design; extend them with it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import REPOSITORY

PACKAGE = REPOSITORY / "python" / "qcore"

# A module may import what stands before it, or its own folder. Entries of one line are siblings
# that do not know each other.
LAYERS = (
    {"_C", "blocks", "progress", "requires"},
    {"memory", "ops"},
    {"formats"},
    {"qweight", "schemes"},
    {"linear", "embedding", "methods", "io", "fold"},
    {"models", "calibrate", "inspection", "repack", "text"},
    {"patch", "streamed"},
    {"gguf_model", "gguf_export"},
    {"folder"},
    {"evaluation", "report"},
    {"cli"},
    {"__init__", "__main__"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

# A method chooses codes; it knows neither who multiplies with them nor where they are saved.
METHODS_MUST_NOT_IMPORT = {"_C", "ops", "linear", "io"}


def part_of(path: Path) -> str:
    """The layer's name: the module, or the folder it is in."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    """Names of the parts of qcore that a file imports, lazily or not."""
    package = ("qcore", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            modules = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for module in modules:
            if module[0] == "qcore" and len(module) > 1:
                yield module[1]


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layers(path: Path) -> None:
    part = part_of(path)
    assert part in RANK, f"place {part} in LAYERS"
    for target in imports(path):
        if target not in RANK or target == part:  # a name that __init__ gives, or the own folder
            continue
        assert RANK[target] < RANK[part], f"{part} must not import {target}"
        if part == "methods":
            assert target not in METHODS_MUST_NOT_IMPORT, f"methods must not import {target}"


NATIVE = sorted(
    path
    for folder in ("cpp", "cuda")
    for path in (REPOSITORY / folder).rglob("*")
    if path.suffix in {".h", ".cpp", ".cu", ".cuh"}
)


@pytest.mark.parametrize("path", NATIVE, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_core_never_sees_torch_or_python(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r'#\s*include\s*[<"](torch|ATen|c10|caffe2|pybind11|Python\.h)', text)
    assert not re.search(r"\b(at|c10|torch)::", text)


WRAPPERS = {REPOSITORY / "cuda" / name for name in ("ptx.cuh", "ptx8.cuh", "ptx_hopper.cuh")}
KERNELS = sorted(set((REPOSITORY / "cuda").rglob("*.cuh")) - WRAPPERS)


@pytest.mark.parametrize("path", KERNELS, ids=lambda p: p.name)
def test_kernels_use_instructions_through_ptx(path: Path) -> None:
    """What passes by ptx.cuh would not run in the emulator, or run there unseen."""
    text = path.read_text()
    assert not re.search(r"\b(asm|threadIdx|blockIdx|__shared__|__sync\w+|__shfl\w*)\b", text)
    if not path.name.startswith("launch"):
        assert not re.search(r"cuda_runtime|__global__|__device__", text)


def test_binding_keeps_to_the_stable_abi() -> None:
    for path in (REPOSITORY / "python" / "csrc").glob("*"):
        for header in re.findall(r"#include <((?:torch|ATen|c10)/.*)>", path.read_text()):
            assert header.startswith(("torch/csrc/stable/", "torch/headeronly/")), header
