"""Brings qcore onto a machine with a GPU: installs a wheel that was built elsewhere, or builds from source.

No network, no build isolation, nothing outside build/gpu. Standard library only.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SCRATCH = REPOSITORY / "build" / "gpu"
SITE = SCRATCH / "site"
NATIVE = ("cpp", "cuda", "python/csrc", "cmake", "CMakeLists.txt")
TIMED_OUT = 124


def run(
    command: list[str], seconds: float, log: Path | None = None, env: dict[str, str] | None = None
) -> tuple[int, str]:
    """The exit status (TIMED_OUT after so many seconds) and, if there is a log, its text.

    The command leads a session of its own, so that all it started can be ended with it: a sanitizer or a
    build runs others, which would keep the GPU and the processors."""
    with open(log, "w") if log else open(os.devnull, "w") as sink:
        output = sink if log else None
        try:
            process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=env or environment(),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            return 127, str(error)
        try:
            code = process.wait(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            end_group(process)
            code = TIMED_OUT
        except BaseException:  # Ctrl-C does not reach another session
            end_group(process)
            raise
    return code, log.read_text(errors="replace") if log else ""


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and all that it started: asks, and after 10 s, or when it has gone, kills."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)


def environment(**more: str) -> dict[str, str]:
    """The environment of all commands: qcore from the scratch folder, the tools beside this Python."""
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    python = [str(SITE), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PATH": os.pathsep.join(p for p in path if p),
        "PYTHONPATH": os.pathsep.join(p for p in python if p),
        "PYTHONUNBUFFERED": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        **more,
    }


def files(repository: Path, names: tuple[str, ...]) -> list[Path]:
    """All files under these names, sorted, without what Python leaves behind."""
    found: list[Path] = []
    for name in names:
        path = repository / name
        found += [path] if path.is_file() else path.rglob("*") if path.is_dir() else []
    return sorted(p for p in found if p.is_file() and "__pycache__" not in p.parts)


def sources_hash(repository: Path) -> str:
    """12 hex digits that name the state of the sources, with or without git."""
    digest = hashlib.sha256()
    for path in files(repository, (*NATIVE, "python/qcore")):
        digest.update(path.relative_to(repository).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def architecture(major: int, minor: int) -> str:
    """CMake's name of the one architecture to build for. From 9.0 on its own instructions need the suffix."""
    return f"{major}{minor}{'a' if major >= 9 else ''}-real"


def wheel_problem(wheel: Path, repository: Path = REPOSITORY) -> str:
    """Why this wheel does not fit this Python or this tree, or ""."""
    if not wheel.is_file():
        return "no such file"
    tag = re.search(r"-(cp\d+)-", wheel.name)
    mine = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    if tag is None or tag[1] != mine:
        return f"is for {tag[1] if tag else 'an unknown Python'}, this Python is {mine}"
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if re.match(r"qcore/.*\.py$", name)}
    tree = {
        path.relative_to(repository / "python").as_posix(): path.read_bytes()
        for path in files(repository, ("python/qcore",))
        if path.suffix == ".py"
    }
    if packed != tree:
        return "its Python files differ from python/qcore"
    return ""


def is_older(wheel: Path, repository: Path = REPOSITORY) -> bool:
    """Whether a native source changed after the wheel was built, as far as file times tell."""
    return any(path.stat().st_mtime > wheel.stat().st_mtime + 1 for path in files(repository, NATIVE))


@dataclass(frozen=True)
class Candidate:
    wheel: Path | None  # None: build from source
    remark: str = ""


def candidates(repository: Path = REPOSITORY, named: str = "") -> tuple[list[Candidate], list[str]]:
    """Ways to get the package, best first, and the wheels that were passed over with their reasons.

    A wheel that is named (or a pattern that finds it) is the only way. Of dist/ the newest comes first; one
    that looks older than the sources comes last, because a copy of a tree may have lost its file times."""
    if named:
        return [Candidate(Path(name).absolute()) for name in sorted(glob.glob(named)) or [named]], []
    ready, late, reasons = [], [], []
    wheels = (repository / "dist").glob("qcore-*.whl")
    for wheel in sorted(wheels, key=lambda path: path.stat().st_mtime, reverse=True):
        problem = wheel_problem(wheel, repository)
        if problem:
            reasons.append(f"dist/{wheel.name}: {problem}")
        elif is_older(wheel, repository):
            late.append(Candidate(wheel, "native sources look newer than this wheel"))
        else:
            ready.append(Candidate(wheel))
    return [*ready, Candidate(None), *late], reasons


# An editable installation of this Python would hide the package in SITE.
PROBE = """
import sys, torch, qcore
from qcore import _C
if not qcore.__file__.startswith(sys.argv[1]): sys.exit("hidden by " + qcore.__file__)
if not _C.cuda_built(): sys.exit("built without CUDA")
"""


def install_wheel(wheel: Path) -> str:
    """Puts the wheel into SITE; returns the problem, or ""."""
    problem = wheel_problem(wheel)
    if problem and "differ" not in problem:
        return problem
    shutil.rmtree(SITE, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    code, text = run([*command, "--target", str(SITE), str(wheel)], 120, SCRATCH / "install.log")
    if code:  # a Python without pip: a wheel is an archive of what belongs into the folder
        if "No module named pip" not in text:
            return f"pip failed: {text.strip().splitlines()[-1] if text.strip() else code}"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(SITE)
    return ""


def build_source(arch: str, seconds: float) -> str:
    """Builds the package for one architecture into SITE; returns the problem, or ""."""
    if not shutil.which("nvcc", path=environment()["PATH"] + os.pathsep + "/usr/local/cuda/bin"):
        return "there is no nvcc"
    shutil.rmtree(SITE, ignore_errors=True)
    log = SCRATCH / "python.log"
    command = [sys.executable, "-m", "pip", "install", "--verbose", "--no-deps", "--no-index", "--no-compile"]
    command += ["--no-build-isolation", "--target", str(SITE)]
    command += [f"--config-settings=build-dir={SCRATCH / 'python'}", str(REPOSITORY)]
    # The compilers of a strange machine may warn of more than ours do.
    env = environment(CMAKE_ARGS=f"-DQCORE_CUDA=ON -DQCORE_WERROR=OFF -DCMAKE_CUDA_ARCHITECTURES={arch}")
    env["PATH"] += os.pathsep + "/usr/local/cuda/bin"
    code, text = run(command, seconds, log, env)
    if code == TIMED_OUT:
        return f"the build took more than {seconds:.0f} s"
    return f"the build failed, see {log}:\n{tail(text)}" if code else ""


def package(arch: str, seconds: float) -> tuple[str, list[str]]:
    """Makes `import qcore` work under environment(). What it is ("" if there is none), and what to say."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    stamp = SCRATCH / "site.txt"
    found, said = candidates(named=os.environ.get("QCORE_WHEEL", ""))
    for candidate in found:
        wheel = candidate.wheel
        if wheel is None:
            name = f"built from source for {arch}, sources {sources_hash(REPOSITORY)}"
        elif wheel.is_file():
            name = f"wheel {wheel.name}, sha256 {hashlib.sha256(wheel.read_bytes()).hexdigest()[:12]}"
        else:
            said.append(f"{wheel}: no such file")
            continue
        if candidate.remark:
            said.append(f"WARNING: {wheel}: {candidate.remark}")
        if stamp.is_file() and stamp.read_text() == name:
            return name, [*said, f"already there: {name}"]
        stamp.unlink(missing_ok=True)
        start = time.monotonic()
        problem = install_wheel(wheel) if wheel else build_source(arch, seconds)
        if not problem:
            code, text = run([sys.executable, "-c", PROBE, str(SITE)], 120, SCRATCH / "import.log")
            problem = f"cannot be used: {tail(text, 3)}" if code else ""
        if not problem:
            if wheel and wheel_problem(wheel):
                said.append(f"WARNING: {wheel.name}: {wheel_problem(wheel)}")
            stamp.write_text(name)
            return name, [*said, f"{name} ({time.monotonic() - start:.0f} s)"]
        said.append(f"{wheel.name if wheel else 'from source'}: {problem}")
    return "", [*said, "no usable package; carry a wheel: see 'On a GPU' in CONTRIBUTING.md"]


def cpp_tests(arch: str, seconds: float) -> tuple[str, str]:
    """Builds the C++ tests with CUDA: ("ok" | "skipped" | "FAILED", remark)."""
    folder, log = SCRATCH / "cpp", SCRATCH / "cpp.log"
    env = environment()
    env["PATH"] += os.pathsep + "/usr/local/cuda/bin"
    for tool in ("cmake", "ninja", "nvcc"):
        if not shutil.which(tool, path=env["PATH"]):
            return "skipped", f"there is no {tool}"
    start = time.monotonic()
    configure = ["cmake", "--preset", "cuda", "-B", str(folder), f"-DCMAKE_CUDA_ARCHITECTURES={arch}"]
    code, text = run([*configure, "-DQCORE_WERROR=OFF"], seconds, log, env)
    if code and code != TIMED_OUT:
        missing = missing_library(text)
        if missing:
            return "skipped", f"{missing} is not installed"
        return "FAILED", f"CMake could not configure, see {log}:\n{tail(text)}"
    if not code:
        code, text = run(["cmake", "--build", str(folder)], seconds - (time.monotonic() - start), log, env)
    if code == TIMED_OUT:
        return "skipped", "not done in the time left; repeat with --only build"
    took = f"{time.monotonic() - start:.0f} s"
    return ("FAILED", f"see {log}:\n{tail(text)}") if code else ("ok", f"C++ tests for {arch}, {took}")


def missing_library(text: str) -> str:
    """The library of the C++ tests that CMake says it did not find, or ""; Boost's parts are packages too."""
    said = r"could\s+not\s+find\s+(GTest|Boost)\b|provided\s+by\s+\"(GTest|Boost\w*)\""
    found = re.search(said, text, re.IGNORECASE)
    return (found[1] or found[2]) if found else ""


def tail(text: str, lines: int = 25) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
