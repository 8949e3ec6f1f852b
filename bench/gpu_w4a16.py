"""Times torch.ops.qcore.w4a16_gemm on the present GPU beside torch and the peers that are installed.

    bench/gpu --only time            the way to run it: builds and finds the package first
    python bench/gpu_w4a16.py --out DIR [--quick] [--seconds S]

Every contender is compared with a float32 product before it is timed, its memory poisoned with NaN. Results
are written after each size.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import gpu_build
import gpu_check
import gpu_limits
import gpu_report
import gpu_timing
import timing
import torch
from gpu_limits import Limits
from gpu_peers import ADAPTERS, Adapter, Contender, Spec, Weight, build, first_line, make_weight
from gpu_report import DENSE, OURS, Row
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[1]
SHAPES = ((4096, 4096), (4096, 14336), (14336, 4096), (8192, 28672))  # K, N: layers of 7 to 70 billion
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
MEMORY_SHARE = 0.6  # of the free memory, for all copies of all contenders


@dataclass(frozen=True)
class Job:
    spec: Spec
    sizes: tuple[int, ...]


def jobs(quick: bool) -> list[Job]:
    """What is timed, the most telling first: a run that is cut keeps it."""
    few = (1, 16, 64, 256, 1024)
    base = Spec(4096, 14336)
    if quick:
        return [Job(Spec(k, n), few) for k, n in ((4096, 14336), (8192, 28672))] + [
            Job(replace(base, asymmetric=True), (16, 256)),
            Job(replace(base, act_order=True), (16, 256)),
        ]
    plain = [Job(Spec(k, n), SIZES) for k, n in SHAPES]
    variants = [
        replace(base, asymmetric=True),
        replace(base, group_size=32),
        replace(base, act_order=True),
        replace(base, bits=8),
        replace(base, bits=8, float8=True),
    ]
    half = [Job(Spec(k, n, torch.float16), SIZES) for k, n in SHAPES]
    return plain + [Job(spec, few) for spec in variants] + half


def moved_bytes(spec: Spec, weight_bytes: int, m: int) -> int:
    """Bytes that must cross the memory bus: the weight and x once, y once."""
    return weight_bytes + m * (spec.k + spec.n) * spec.dtype.itemsize


class DeviceLostError(RuntimeError):
    """After such an error every call to the device fails."""


class Bench:
    """Times jobs and writes what it has after every size."""

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
        adapters: dict[str, Adapter] = ADAPTERS,
    ) -> None:
        self.out, self.machine, self.limits, self.clock = out, machine, limits, clock
        self.device, self.rounds, self.rotate = device, rounds, rotate
        self.deadline, self.adapters = deadline, adapters
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.failures: list[str] = []
        self.complete = False

    def write(self) -> None:
        gpu_report.write(self.out, self.machine, self.rows, self.notes, self.complete)

    def note(self, text: str, failed: bool = False) -> None:
        if text not in self.notes:
            self.notes.append(text)
            print(f"  {text}", flush=True)
        if failed:
            self.failures.append(text)

    def run(self, work: list[Job]) -> None:
        try:
            for job in work:
                try:
                    if not self.run_job(job):
                        return
                except torch.OutOfMemoryError as error:
                    self.note(f"{describe(job.spec)}: {first_line(error)}")
            self.complete = True
        except DeviceLostError as error:
            self.note(f"the device is lost, nothing more can be timed: {error}", failed=True)
        finally:
            self.write()

    def free_bytes(self) -> int:
        return torch.cuda.mem_get_info()[0] if self.device == "cuda" else 1 << 30

    def run_job(self, job: Job) -> bool:
        """False if there was no time left."""
        spec = job.spec
        if time.monotonic() > self.deadline:
            self.note("out of time: later weights are missing")
            return False
        print(f"\n{describe(spec)}", flush=True)
        if self.device == "cuda":
            torch.cuda.empty_cache()
        weight = make_weight(spec, self.device)
        contenders, reasons = build(weight, self.adapters)
        for name, reason in reasons.items():
            where = f" ({describe(spec)})" if name == OURS else ""  # the others have one reason for all
            self.note(f"{name}{where}: {reason}", failed=name == OURS)
        self.check_device()
        budget = int(MEMORY_SHARE * self.free_bytes()) // max(1, len(contenders))
        states = {}
        for name, contender in list(contenders.items()):
            size = timing.nbytes(contender.state)
            extra = timing.copies_wanted(size, budget + size, self.rotate)  # the first one is there
            try:
                states[name] = timing.rotated(contender.state, max(1, extra))
            except Exception as error:  # a foreign object that cannot be copied, or no memory
                del contenders[name]
                self.note(f"{name} ({describe(spec)}): {first_line(error)}", failed=name == OURS)
        for m in job.sizes:
            if time.monotonic() > self.deadline:
                self.note(f"out of time: {describe(spec)} from M = {m} on is missing")
                return False
            self.run_size(weight, m, contenders, states)
            self.write()
        return True

    def check_device(self) -> None:
        """Some errors of a kernel poison the process: nothing more can be timed in it."""
        if self.device != "cuda":
            return
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            raise DeviceLostError(first_line(error)) from error

    def run_size(
        self, weight: Weight, m: int, contenders: dict[str, Contender], states: dict[str, list[Any]]
    ) -> None:
        spec = weight.spec
        g = torch.Generator(self.device).manual_seed(m)
        x = torch.randn(m, spec.k, device=self.device, generator=g).to(spec.dtype)
        reference = weight.product(x)
        entries, errors = [], {}
        for name, contender in contenders.items():
            calls = [lambda s=state, c=contender: c.call(s, x) for state in states[name]]
            entry = timing.Entry(name, calls)  # type: ignore[arg-type]
            try:
                errors[name], wrong = self.check(entry, x, reference)
            except Exception as error:  # whatever a foreign package raises, the others go on
                reason = first_line(error)
                self.note(f"{name} ({describe(spec)}, M = {m}): {reason}", failed=name == OURS)
                self.check_device()
                continue
            if wrong:
                self.note(f"{name} ({describe(spec)}, M = {m}): {wrong}", failed=name == OURS)
            else:
                entries.append(entry)
        times = timing.take_turns(entries, self.clock, self.rounds)
        medians = {name: timing.summary(t) for name, t in times.items()}
        for name, (median, least, largest) in medians.items():
            dense = medians[DENSE][0] if DENSE in medians else math.nan
            weight_bytes = timing.nbytes(states[name][0])
            moved = moved_bytes(spec, weight_bytes, m)
            flop = 2.0 * m * spec.k * spec.n
            limit = gpu_limits.limit_seconds(moved, flop, self.limits)
            row = Row(
                contender=name,
                kernel=contenders[name].kernel(m),
                dtype=spec.dtype_name,
                m=m,
                k=spec.k,
                n=spec.n,
                bits=spec.bits,
                group_size=spec.group_size,
                asymmetric=spec.asymmetric,
                act_order=spec.act_order,
                float8=spec.float8,
                microseconds=median * 1e6,
                least_us=least * 1e6,
                largest_us=largest * 1e6,
                limit_us=limit * 1e6,
                tb_per_s=moved / median / 1e12,
                tflop_per_s=flop / median / 1e12,
                fraction=limit / median,
                speedup=dense / median,
                error=errors[name],
                copies=len(states[name]),
                weight_bytes=weight_bytes,
            )
            self.rows.append(row)
            us, fraction = gpu_report.number(row.microseconds), f"{row.fraction:.2f}"
            print(
                f"  M {m:5} {name:13} {us:>8} us  {row.tb_per_s:6.2f} TB/s  {row.tflop_per_s:6.1f} TFLOP/s  "
                f"{fraction} of the limit  {row.speedup:5.2f} x  error {row.error:.1e}  {row.kernel}",
                flush=True,
            )

    def check(self, entry: timing.Entry, x: Tensor, reference: Tensor) -> tuple[float, str]:
        """The larger error of a plain call and of the captured calls that are timed, and what is wrong."""
        most = gpu_check.most_error(entry.name, x.dtype)
        with gpu_check.poisoned():
            plain = gpu_check.compare(entry.calls[0](), reference)
        if plain.wrong(most):
            return plain.whole, plain.wrong(most)
        timing.prepare(entry, self.clock)
        entry.captured.output.fill_(math.nan)
        self.clock.replay(entry.captured, 1)
        replayed = gpu_check.compare(entry.captured.output, reference)
        return max(plain.whole, replayed.whole), replayed.wrong(most)


def describe(spec: Spec) -> str:
    kind = "asymmetric " * spec.asymmetric + "act-order " * spec.act_order + "float8 " * spec.float8
    return f"{spec.k} x {spec.n} {kind}W{spec.bits} g{spec.group_size} {spec.dtype_name}"


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


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="default: bench/results/<gpu>")
    parser.add_argument("--quick", action="store_true", help="two shapes and five sizes")
    parser.add_argument("--seconds", type=float, default=math.inf, help="start nothing new after so long")
    return parser.parse_args(arguments)


def main() -> int:
    arguments = parse()
    deadline = time.monotonic() + arguments.seconds
    if not torch.cuda.is_available():
        print("bench/gpu_w4a16.py needs an NVIDIA GPU, and torch sees none", file=sys.stderr)
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
    bench = Bench(out, machine, limits, gpu_timing.CudaClock(), rounds=rounds, deadline=deadline)
    with torch.inference_mode():
        bench.run(jobs(arguments.quick))
        if not any("the device is lost" in note for note in bench.notes):
            again = gpu_limits.measure()  # has the card become slower meanwhile?
            machine["measured at the end"] = figures(again)
            bench.write()
    print(f"\n{machine['gpu']}, {machine['measured']}; written to {out}/w4a16.md and .json\n")
    print(gpu_report.short_table(bench.rows))
    for failure in bench.failures:
        print(f"FAILED: {failure}")
    return 1 if bench.failures or not any(row.contender == OURS for row in bench.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
