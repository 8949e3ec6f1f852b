"""bench/gpu: builds, tests, sanitizes and times qcore on the present NVIDIA GPU.

    bench/gpu                       all steps; it stops itself after 10 minutes
    bench/gpu --quick               fewer sizes and no C++ tests; after 3 minutes
    bench/gpu --only time --out D   one step (repeat --only for more); it gets the package first
    QCORE_WHEEL=FILE bench/gpu      with that wheel instead of one from dist/ or a build

Everything it makes is under build/gpu, but for the tables, under --out (bench/results/<gpu>).
Exit status: 0 all well, 1 a step failed, 2 there is no GPU here.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import gpu_build
from gpu_build import REPOSITORY, SCRATCH, TIMED_OUT, run, tail

STEPS = ("build", "test", "sanitize", "time")
SANITIZER_FOUND = 86  # an exit status that neither Python nor the tool uses by itself
# What later steps need at least, in seconds; earlier ones are stopped for it.
RESERVE = {"build": 240.0, "test": 180.0, "sanitize": 120.0, "time": 0.0}


@dataclass
class Run:
    arguments: argparse.Namespace
    arch: str
    deadline: float  # of time.monotonic()
    results: list[tuple[str, str, str]] = field(default_factory=list)  # step, status, remark

    def left(self, step: str, most: float = 1e9) -> float:
        """Seconds that the step may still take."""
        reserve = RESERVE[step] / (3 if self.arguments.quick else 1)
        if self.arguments.only:
            reserve = 0.0
        return max(10.0, min(most, self.deadline - time.monotonic() - reserve))

    def add(self, step: str, status: str, remark: str = "") -> None:
        self.results.append((step, status, remark))
        print(f"== {step}: {status}{' - ' + remark if remark else ''}", flush=True)

    @property
    def failed(self) -> bool:
        return any(status == "FAILED" for _, status, _ in self.results)


def ensure_package(state: Run) -> bool:
    name, said = gpu_build.package(state.arch, state.left("build"))
    print("\n".join(said), flush=True)
    os.environ["QCORE_PACKAGE"] = name
    return bool(name)


def build(state: Run) -> None:
    state.add("build: package", "ok", os.environ["QCORE_PACKAGE"])
    if state.arguments.quick:
        state.add("build: C++ tests", "skipped", "--quick")
    else:
        state.add("build: C++ tests", *gpu_build.cpp_tests(state.arch, state.left("build", 240)))


def smoke(*options: str) -> list[str]:
    return [sys.executable, str(REPOSITORY / "bench" / "gpu_smoke.py"), *options]


def verdict(code: int) -> str:
    return "ok" if code == 0 else "FAILED"


def test(state: Run) -> None:
    if find_spec("pytest") is None or not (REPOSITORY / "tests" / "gpu").is_dir():
        why = "no pytest here" if find_spec("pytest") is None else "there is no tests/gpu"
        code, _ = run(smoke(), state.left("test"))
        state.add("test: smoke check", verdict(code), f"instead of pytest: {why}")
    else:
        pytest = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"]
        code, _ = run(pytest, state.left("test", 240))
        remark = {0: "", TIMED_OUT: "stopped, out of time", 5: "no test was collected"}.get(
            code, f"exit {code}"
        )
        state.add("test: pytest -m gpu", verdict(code), remark)
    folder = SCRATCH / "cpp"
    found = shutil.which("ctest", path=gpu_build.environment()["PATH"])
    if not found or not (folder / "CTestTestfile.cmake").is_file():
        state.add("test: ctest -L gpu", "skipped", "the C++ tests are not built")
        return
    ctest = [found, "--test-dir", str(folder), "-L", "gpu"]
    _, listed = run([*ctest, "-N"], 60, SCRATCH / "ctest.log")
    if re.search(r"Total Tests: 0\b", listed):
        state.add("test: ctest -L gpu", "skipped", "no C++ test has the label gpu")
        return
    code, _ = run([*ctest, "--output-on-failure"], state.left("test", 120))
    state.add("test: ctest -L gpu", verdict(code), f"exit {code}" if code else "")


def find_sanitizer() -> str | None:
    homes = [os.environ.get("CUDA_HOME", ""), os.environ.get("CUDA_PATH", ""), "/usr/local/cuda", "/opt/cuda"]
    nvcc = shutil.which("nvcc")
    if nvcc:
        homes.append(str(Path(nvcc).resolve().parents[1]))
    extra = [f"{home}/{part}" for home in homes if home for part in ("bin", "compute-sanitizer")]
    return shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), *extra]))


def sanitizer_command(path: str, tool: str) -> list[str]:
    command = [path, "--tool", tool, "--error-exitcode", str(SANITIZER_FOUND)]
    # Only memcheck reports errors of API calls. torch itself asks the driver questions that it answers with
    # errors, so they are left out.
    return [*command, "--report-api-errors", "no"] if tool == "memcheck" else command


def sanitizer_verdict(code: int, output: str) -> tuple[str, str]:
    """Status and remark of a run under compute-sanitizer."""
    summaries = re.findall(r"^=+ ((?:ERROR|RACECHECK) SUMMARY: .*)$", output, re.M)
    remark = summaries[-1] if summaries else ""
    if code == TIMED_OUT:  # the tool works here, as its probe has shown: a kernel may hang
        return "FAILED", "not done in its time"
    if code == 0:
        return "ok", remark
    return "FAILED", f"exit {code} {remark}\n{tail(output, 40)}"


def sanitize(state: Run) -> None:
    tool = find_sanitizer()
    if tool is None:
        state.add("sanitize", "skipped", "there is no compute-sanitizer")
        return
    # One allocation per tensor, else an access behind a tensor hits another one of torch's pool.
    env = gpu_build.environment(PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    log = SCRATCH / "sanitize.log"
    code, text = run(
        [*sanitizer_command(tool, "memcheck"), *smoke("--probe")], state.left("sanitize", 90), log, env
    )
    if code:
        reason = next((line for line in text.splitlines() if "not supported" in line), tail(text, 1))
        state.add("sanitize", "skipped", f"compute-sanitizer does not work here (exit {code}): {reason}")
        return
    for name in ("memcheck", "racecheck"):
        log = SCRATCH / f"{name}.log"
        code, text = run(
            [*sanitizer_command(tool, name), *smoke("--few")], state.left("sanitize", 120), log, env
        )
        state.add(f"sanitize: {name}", *sanitizer_verdict(code, text))


# Scripts that time something, with their share of the time that is left to them.
TIMED = (("gpu_w4a16.py", 0.5), ("gpu_int8.py", 0.35), ("gpu_fp8.py", 0.5), ("gpu_kquant.py", 1.0))


def time_all(state: Run) -> None:
    for script, share in TIMED:
        seconds = state.left("time") * share - 15  # what has begun ends, and the tables are written
        command = [sys.executable, str(REPOSITORY / "bench" / script), "--seconds", f"{seconds:.0f}"]
        if state.arguments.out:
            command += ["--out", str(state.arguments.out.absolute())]
        code, _ = run([*command, *["--quick"] * state.arguments.quick], seconds + 20)
        remark = "stopped, out of time" if code == TIMED_OUT else ""
        state.add(f"time: {script.removeprefix('gpu_').removesuffix('.py')}", verdict(code), remark)


ACTIONS: dict[str, Callable[[Run], None]] = {
    "build": build,
    "test": test,
    "sanitize": sanitize,
    "time": time_all,
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "bench/gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder of the tables, default bench/results/<gpu>")
    parser.add_argument("--quick", action="store_true", help="at most 3 minutes instead of 10")
    parser.add_argument("--skip-sanitizer", action="store_true", help="leave that step out")
    parser.add_argument("--only", choices=STEPS, action="append", help="this step alone; may be repeated")
    parser.add_argument("--seconds", type=float, help="time for all steps, default 570, with --quick 175")
    return parser.parse_args(arguments)


def steps(arguments: argparse.Namespace) -> list[str]:
    chosen = [step for step in STEPS if not arguments.only or step in arguments.only]
    return [step for step in chosen if step != "sanitize" or not arguments.skip_sanitizer]


# Asked in another process, so that this one holds no memory of the GPU while the steps run.
ASK = """
import torch
found = torch.cuda.is_available() and torch.cuda.device_count() > 0
gpu = (*torch.cuda.get_device_capability(), torch.cuda.get_device_name()) if found else ()
print("answer", torch.__version__, *gpu, sep="|")
"""


def ask_gpu() -> tuple[tuple[int, int, str] | None, str]:
    """Compute capability and name of the GPU; or None and why there is none, in one line."""
    if find_spec("torch") is None:
        return None, f"no GPU can be used: {sys.executable} has no torch (another Python: PYTHON=python3.x)"
    asked = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=False)
    answers = [line for line in asked.stdout.splitlines() if line.startswith("answer|")]
    if not answers:
        return None, f"no GPU can be used: torch of {sys.executable} fails: {tail(asked.stderr, 1)}"
    _, version, *gpu = answers[-1].split("|")
    if not gpu:
        return None, f"no GPU here: torch {version} of {sys.executable} sees none"
    return (int(gpu[0]), int(gpu[1]), gpu[2]), f"torch {version}"


def main(arguments: list[str] | None = None) -> int:
    parsed = parse(arguments)
    start = time.monotonic()
    gpu, said = ask_gpu()
    if gpu is None:
        print(f"bench/gpu: {said}", file=sys.stderr)
        return 2
    seconds = parsed.seconds or (175 if parsed.quick else 570)
    arch = gpu_build.architecture(*gpu[:2])
    state = Run(parsed, arch, start + seconds)
    print(f"== {gpu[2]}, {arch}, {said}, {sys.executable}", flush=True)
    if ensure_package(state):
        for step in steps(parsed):
            ACTIONS[step](state)
    else:
        state.add("build: package", "FAILED")
    print(f"\n{time.monotonic() - start:.0f} s in all; logs are in {SCRATCH.relative_to(REPOSITORY)}")
    for step, status, remark in state.results:
        print(f"{status:8} {step:20} {remark.splitlines()[0] if remark else ''}")
    return 1 if state.failed else 0


if __name__ == "__main__":
    sys.exit(main())
