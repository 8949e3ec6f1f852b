"""What the system check asks for, and what the extension's binary must and must not contain, so that one
wheel fits every torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

import qcore
from qcore import _C

EXTENSION = Path(_C.__file__)
needs_readelf = pytest.mark.skipif(
    shutil.which("readelf") is None, reason="readelf is missing (Debian: binutils)"
)


def readelf(*options: str) -> str:
    command = ["readelf", "--wide", *options, str(EXTENSION)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def system_check(repository: Path, *groups: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(repository / "third_party" / "system-packages.sh"), "--check", *groups]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_system_check_names_all_missing_packages_at_once(repository: Path) -> None:
    result = system_check(repository, "build", CXX="false", PYTHON="false")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith(": apt-get install g++ python3-venv python3-dev")


def test_system_check_finds_libraries_where_cmake_does(repository: Path, tmp_path: Path) -> None:
    header = tmp_path / "include" / "gtest" / "gtest.h"
    header.parent.mkdir(parents=True)
    header.touch()
    assert system_check(repository, "test", CMAKE_PREFIX_PATH=f"/nowhere:{tmp_path}").returncode == 0
    assert system_check(repository, "test", GTest_DIR=str(tmp_path)).returncode == 0
    assert system_check(repository, "build", CXX="false", QCORE_SYSTEM_CHECK="off").returncode == 0


@pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")
@pytest.mark.parametrize(
    ("arguments", "cuda"),
    [
        ("setup GPU=", {"OFF"}),
        ("demo GPU=", {"OFF"}),
        ("setup GPU=yes", {"AUTO"}),
        ("test GPU=", {"AUTO"}),  # the gate reads the kernels
        ("lint test GPU=", {"AUTO"}),
        ("test GPU= QCORE_CUDA=OFF", {"OFF"}),
        ("wheel GPU=", set()),  # CMake's own default, AUTO
    ],
)
def test_who_asks_for_cuda_kernels(arguments: str, cuda: set[str], repository: Path, tmp_path: Path) -> None:
    """The extension and the C++ tests get the same answer, because they share a build tree."""
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "QCORE_CUDA")}
    command = ["make", "-n", "-C", str(repository), f"VENV={tmp_path}", *arguments.split()]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=outside)
    assert set(re.findall(r"QCORE_CUDA=(\w+)", result.stdout)) == cuda


@needs_readelf
def test_no_library_search_path() -> None:
    assert not re.search(r"RPATH|RUNPATH", readelf("--dynamic"))


@needs_readelf
def test_needs_only_libtorch_cpu_and_the_system() -> None:
    """No second OpenMP, no CUDA runtime, no other torch library."""
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", readelf("--dynamic")))
    system = {"libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6"}
    system |= {"libpthread.so.0", "libdl.so.2", "librt.so.1"}
    assert "libtorch_cpu.so" in needed
    assert {n for n in needed - system - {"libtorch_cpu.so"} if not n.startswith("ld-linux")} == set()


@needs_readelf
def test_only_the_stable_abi_of_torch() -> None:
    """Undefined symbols of torch are C functions: aoti_torch_*, torch_*. None is C++ (at, c10)."""
    undefined = re.findall(r"\bUND\s+(\S+)", readelf("--dyn-syms"))
    assert any(name.startswith(("aoti_torch_", "torch_")) for name in undefined)
    assert [name for name in undefined if re.match(r"_ZN?K?\w*?(2at|3c10|5torch)", name)] == []


@needs_readelf
def test_exports_only_the_module() -> None:
    symbols = re.findall(r"\b(?:GLOBAL|WEAK)\s+DEFAULT\s+\d+\s+(\S+)", readelf("--dyn-syms"))
    linker = {"__bss_start", "_edata", "_end"}
    assert [s for s in symbols if not s.startswith("_Z") and s not in linker] == ["PyInit__C"]
    assert [name for name in symbols if "qcore" in name] == []


def test_no_path_of_the_build_machine(repository: Path) -> None:
    binary = EXTENSION.read_bytes()
    assert b"site-packages" not in binary
    assert str(repository).encode() not in binary


def test_one_version(repository: Path) -> None:
    declared = re.search(r'^version = "(.*)"', (repository / "pyproject.toml").read_text(), re.M)
    assert declared is not None
    assert _C.version() == version("qcore") == qcore.__version__ == declared[1]
