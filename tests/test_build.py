"""What the system check asks for, and what the extension's binary must and must not contain, so that one
wheel fits every torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

import qcore
from conftest import REPOSITORY
from qcore import _C

MODULE = Path(_C.__file__)
OPS = MODULE.with_name("libqcore_ops.so")
BINARIES = pytest.mark.parametrize("binary", [MODULE, OPS], ids=["module", "ops"])
needs_readelf = pytest.mark.skipif(
    shutil.which("readelf") is None, reason="readelf is missing (Debian: binutils)"
)


def readelf(binary: Path, *options: str) -> str:
    command = ["readelf", "--wide", *options, str(binary)]
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
@BINARIES
def test_no_library_search_path(binary: Path) -> None:
    assert not re.search(r"RPATH|RUNPATH", readelf(binary, "--dynamic"))


@needs_readelf
@pytest.mark.parametrize(
    ("binary", "needs"), [(MODULE, "libqcore_ops.so"), (OPS, "libtorch_cpu.so")], ids=["module", "ops"]
)
def test_needs_one_library_and_the_system(binary: Path, needs: str) -> None:
    """No second OpenMP, no CUDA runtime, no other torch library; libqcore_ops.so no Python."""
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", readelf(binary, "--dynamic")))
    system = {"libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6"}
    system |= {"libpthread.so.0", "libdl.so.2", "librt.so.1"}
    assert needs in needed
    assert {n for n in needed - system - {needs} if not n.startswith("ld-linux")} == set()


@needs_readelf
def test_only_the_stable_abi_of_torch() -> None:
    """Undefined symbols of torch are C functions: aoti_torch_*, torch_*. None is C++ (at, c10)."""
    undefined = re.findall(r"\bUND\s+(\S+)", readelf(OPS, "--dyn-syms"))
    assert any(name.startswith(("aoti_torch_", "torch_")) for name in undefined)
    for binary in (OPS, MODULE):
        undefined = re.findall(r"\bUND\s+(\S+)", readelf(binary, "--dyn-syms"))
        assert [name for name in undefined if re.match(r"_ZN?K?\w*?(2at|3c10|5torch)", name)] == []


@needs_readelf
def test_newer_functions_of_torch_are_weak() -> None:
    """What torch 2.10 does not have must not be needed."""
    newer = ("torch_library_def_with_tags", "torch_tag_pt2_compliant_tag", "torch_exception_get_what")
    symbols = re.findall(r"\b(GLOBAL|WEAK)\s+DEFAULT\s+UND\s+(\S+)", readelf(OPS, "--dyn-syms"))
    assert {binding for binding, name in symbols if name.startswith(newer)} == {"WEAK"}


@needs_readelf
def test_ops_know_no_python() -> None:
    """One build of them, with its minutes of nvcc, serves every Python and processes without one."""
    names = re.findall(r"\d+:\s.*\s(\S+)$", readelf(OPS, "--dyn-syms"), re.M)
    assert names
    assert [name for name in names if re.match(r"_?Py[A-Z_]", name) or "pybind" in name] == []
    assert MODULE.stat().st_size < 1 << 20  # all the rest is in the ops


@needs_readelf
def test_what_is_exported() -> None:
    def exported(binary: Path) -> list[str]:
        found = re.findall(r"\b(?:GLOBAL|WEAK)\s+DEFAULT\s+\d+\s+(\S+)", readelf(binary, "--dyn-syms"))
        return [name for name in found if name not in {"__bss_start", "_edata", "_end"}]

    assert [name for name in exported(MODULE) if not name.startswith("_Z")] == ["PyInit__C"]
    assert [name for name in exported(MODULE) if "qcore" in name] == []
    declared = (REPOSITORY / "python" / "csrc" / "introspection.h").read_text()
    functions = set(re.findall(r"\b(\w+)\((?=[^;]*\);)", re.sub(r"//.*|\(\*\w+\)", "", declared)))
    ours = {name for name in exported(OPS) if "qcore" in name}
    assert {re.sub(r"_ZN5qcore7binding\d+(\w+?)(?:B5cxx11)?E.*", r"\1", name) for name in ours} == functions
    assert [name for name in exported(OPS) if not name.startswith("_Z")] == []


@BINARIES
def test_no_path_of_the_build_machine(binary: Path, repository: Path) -> None:
    assert b"site-packages" not in binary.read_bytes()
    assert str(repository).encode() not in binary.read_bytes()


def test_one_version(repository: Path) -> None:
    declared = re.search(r'^version = "(.*)"', (repository / "pyproject.toml").read_text(), re.M)
    assert declared is not None
    assert _C.version() == version("qcore") == qcore.__version__ == declared[1]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("ninja") is None, reason="no cmake or ninja"
)
def test_another_python_takes_the_ops_that_are_built(repository: Path, tmp_path: Path) -> None:
    """Without torch, nvcc and the core: the module is all that is compiled."""
    configure = [
        "cmake",
        "-S",
        str(repository),
        "-B",
        str(tmp_path),
        "-G",
        "Ninja",
        "-DQCORE_BUILD_PYTHON=ON",
    ]
    configure += [f"-DQCORE_OPS_LIBRARY={OPS}", f"-DPython_EXECUTABLE={sys.executable}"]
    subprocess.run(configure, check=True, capture_output=True)
    steps = subprocess.run(["ninja", "-n"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert len(re.findall(r"^\[\d+/\d+\] Building", steps, re.M)) == 1
    subprocess.run(["cmake", "--build", str(tmp_path)], check=True, capture_output=True)
    prefix = tmp_path / "prefix"
    install = ["cmake", "--install", str(tmp_path), "--component", "python", "--prefix", str(prefix)]
    subprocess.run(install, check=True, capture_output=True)
    assert {path.name for path in (prefix / "qcore").iterdir()} == {MODULE.name, OPS.name}
    assert (prefix / "qcore" / OPS.name).read_bytes() == OPS.read_bytes()


def test_sdist_holds_what_its_tests_need(repository: Path, tmp_path: Path) -> None:
    """A source archive is a tree in which they run: the bundled model is part of it."""
    backend = pytest.importorskip("scikit_build_core.build")
    script = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=repository, check=True, capture_output=True
    )
    assert backend is not None
    (archive,) = tmp_path.iterdir()
    with tarfile.open(archive) as files:
        inside = {name.partition("/")[2] for name in files.getnames()}
    parts = ("bench", "cmake", "cpp", "cuda", "models", "python", "tests", "third_party")
    needed = {
        str(path.relative_to(repository))
        for part in parts
        for path in (repository / part).rglob("*")
        if path.is_file() and path.suffix not in (".so", ".pyc")
    }
    needed = {name for name in needed if not name.startswith("bench/results/")}
    assert {"tests/conftest.py", "models/pydoc-llama-7m/model.safetensors", "python/OPS.md"} <= needed
    assert needed - inside == set()
    assert {
        "pyproject.toml",
        "CMakeLists.txt",
        "CMakePresets.json",
        "Makefile",
        "LICENSE",
        "README.md",
    } <= inside
