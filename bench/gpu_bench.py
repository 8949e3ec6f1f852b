"""What the programs that time kernels on a GPU share: the machine, where a run is and how long it may go on.

A program has a `Bench` of its own, and a `main` that hands it to `run_program`.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import gpu_build
import gpu_limits
import gpu_report
import gpu_timing
import timing
import torch
from gpu_limits import Limits

REPOSITORY = Path(__file__).resolve().parents[1]


class Bench:
    """Times sizes and writes what it has after every one, so that a run that is cut keeps its rows."""

    def __init__(
        self,
        out: Path,
        machine: dict[str, Any],
        limits: Limits,
        clock: timing.Clock,
        *,
        device: str = "cuda",
        rounds: int = 15,
        rotate: int = timing.ROTATE_BYTES,
        deadline: float = math.inf,  # of time.monotonic()
    ) -> None:
        self.out, self.machine, self.limits, self.clock = out, machine, limits, clock
        self.device, self.rounds, self.rotate, self.deadline = device, rounds, rotate, deadline
        self.rows: list[Any] = []
        self.failures: list[str] = []
        self.complete = False

    @property
    def late(self) -> bool:
        return time.monotonic() > self.deadline

    def free_bytes(self) -> int:
        return torch.cuda.mem_get_info()[0] if self.device == "cuda" else 1 << 30

    def copies(self, size: int, share: int) -> int:
        """How many copies of so many bytes should rotate, within a share, 1 / `share`, of the free memory."""
        return max(1, timing.copies_wanted(size, self.free_bytes() // share, self.rotate))

    def fail(self, what: str) -> None:
        self.failures.append(what)
        print(f"  {what}", flush=True)


AnyBench = TypeVar("AnyBench", bound=Bench)


def run_program(
    name: str, doc: str | None, bench: Callable[..., AnyBench], run: Callable[[AnyBench, bool], None]
) -> int:
    """The main function of bench/gpu_<name>.py, which writes <name>.md and .json: its exit status.

    Args:
        doc: what --help says first.
        bench: makes the Bench, from the arguments of its constructor.
        run: times everything, or with True a quick selection.
    """
    arguments = parse(doc)
    deadline = time.monotonic() + arguments.seconds
    if not torch.cuda.is_available():
        print(f"bench/gpu_{name}.py needs an NVIDIA GPU, and torch sees none", file=sys.stderr)
        return 2
    torch.set_float32_matmul_precision("highest")  # the reference is a float32 product
    gpu_limits.measure(2)  # the clocks rise
    measured = gpu_limits.measure()
    limits = gpu_limits.limits_of(torch.cuda.get_device_name(), measured)
    machine = describe_machine(measured, limits)
    for key, value in machine.items():
        print(f"{key}: {value}")
    out = arguments.out or REPOSITORY / "bench" / "results" / gpu_report.folder_name(machine["gpu"])
    rounds = 7 if arguments.quick else 15
    made = bench(out, machine, limits, gpu_timing.CudaClock(), rounds=rounds, deadline=deadline)
    with torch.inference_mode():
        run(made, arguments.quick)
    print(f"\n{machine['gpu']}, {machine['measured']}; written to {out}/{name}.md and .json")
    for failure in made.failures:
        print(f"FAILED: {failure}")
    return 1 if made.failures or not made.rows else 0


def parse(doc: str | None, arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="default: bench/results/<gpu>")
    parser.add_argument("--quick", action="store_true", help="fewer shapes and sizes")
    parser.add_argument("--seconds", type=float, default=math.inf, help="start nothing new after so long")
    return parser.parse_args(arguments)


def command_output(*command: str) -> str:
    """What a command says, or nothing if it cannot be run."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""


def commit() -> str:
    """$QCORE_COMMIT, or what git says, or a hash of the sources where there is no git."""
    known = os.environ.get("QCORE_COMMIT", "")
    if known:
        return known
    head = command_output("git", "rev-parse", "--short=12", "HEAD")
    changed = command_output("git", "status", "--porcelain", "--", ":!bench/results")
    return (
        (head + " with changes" * bool(changed))
        if head
        else f"unknown, sources {gpu_build.sources_hash(REPOSITORY)}"
    )


def figures(measured: gpu_limits.Measured) -> str:
    copy, read = measured.copy_bytes_per_s / 1e12, measured.read_bytes_per_s / 1e12
    flop = measured.bf16_flop_per_s / 1e12
    return f"copy {copy:.2f} TB/s (read + written), read {read:.2f} TB/s, bf16 {flop:.0f} TFLOP/s"


def describe_machine(measured: gpu_limits.Measured, limits: Limits) -> dict[str, Any]:
    query = "driver_version,power.limit,clocks.max.sm,clocks.max.mem"
    smi = command_output("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "-i", "0")
    driver, power, sm, memory = (smi.split(", ") + ["unknown"] * 4)[:4] if smi else ["unknown"] * 4
    properties = torch.cuda.get_device_properties(0)
    machine = {
        "gpu": torch.cuda.get_device_name(),
        "compute capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "multiprocessors": properties.multi_processor_count,
        "driver": driver,
        "power limit, W": power,
        "highest clocks, MHz": f"SM {sm}, memory {memory}",
        "torch": torch.__version__,
        "CUDA of torch": torch.version.cuda,
        "commit": commit(),
        "package": os.environ.get("QCORE_PACKAGE", "as installed"),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "limits": f"{limits.bytes_per_s / 1e12:.3f} TB/s, {limits.flop_per_s / 1e12:.0f} TFLOP/s bf16 "
        f"({limits.source})",
        "measured": figures(measured),
    }
    forced = {k: v for k, v in os.environ.items() if k.startswith("QCORE_FORCE_")}
    return machine | ({"forced": str(forced)} if forced else {})
