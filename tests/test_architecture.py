"""Who may import whom. The lists here are the design; extend them with it."""

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
    {"library"},
    {"_C", "interrupts", "progress", "report", "requires", "room"},
    {"ops"},
    {"formats"},
    {"conversion", "linears", "qweight", "schemes"},
    {"methods", "nn"},
    {"calibration", "tensors"},
    {"models"},
    {"ends"},
    {"choice"},
    {"checkpoints"},
    {"encoders", "in_memory", "repack", "text"},
    {"quantization"},
    {"evaluation"},
    {"cli"},
    {"__init__", "__main__"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

# A method chooses codes; it knows neither who multiplies with them nor where they are saved.
METHODS_MUST_NOT_IMPORT = {"_C", "ops", "nn", "checkpoints"}


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


# Inside `checkpoints`: how layers are spelled needs nothing of models, so that `qcore.repack` starts fast.
CONTAINERS = {
    "auto_round", "awq", "bits", "bitsandbytes", "compressed_tensors", "container", "containers",
    "fbgemm_fp8", "fields", "float8", "fp8", "gptq", "hqq", "modelopt", "torchao", "words",
}  # fmt: skip


@pytest.mark.parametrize("path", sorted((PACKAGE / "checkpoints").rglob("*.py")), ids=lambda p: p.name)
def test_containers_know_neither_models_nor_places(path: Path) -> None:
    if path.relative_to(PACKAGE / "checkpoints").with_suffix("").parts[0] not in CONTAINERS:
        assert "(Container)" not in path.read_text(), f"place {path.stem} in CONTAINERS"
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qcore."):
            _, part, *inside = (node.module or "").split(".")
            assert RANK[part] <= RANK["qweight"] or part == "checkpoints", f"{path.name} imports {part}"
            assert part != "checkpoints" or inside[0] in CONTAINERS, f"{path.name} imports {inside[0]}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_lists_know_their_members(path: Path) -> None:
    """Formats, methods and containers are asked for what they do, never for what they are."""
    part, text = part_of(path), path.read_text()
    if part != "formats":
        assert not re.search(r"isinstance\([^)]*(Format|Elements|Integers|Floats|Codebook)\b", text)
    if part != "methods":
        assert not re.search(r"isinstance\([^)]*\b(Rtn|Gptq|Awq|Imatrix)\b", text)
    if part not in ("checkpoints", "repack"):
        others = text.replace("qcore.methods.", "")
        assert not re.search(r"import.*\b(compressed_tensors|gptq|awq|gguf)\b", others)
