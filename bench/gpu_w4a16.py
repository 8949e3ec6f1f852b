"""Times torch.ops.qcore.w4a16_gemm on the present GPU beside torch and the peers that are installed.

    bench/gpu --only time            the way to run it: builds and finds the package first
    python bench/gpu_w4a16.py --out DIR [--quick] [--seconds S]

Every contender is compared with a float32 product before it is timed, its memory poisoned with NaN. Results
are written after each size.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import Any

import gpu_bench
import gpu_check
import gpu_limits
import gpu_report
import timing
import torch
from gpu_peers import ADAPTERS, Adapter, Contender, Spec, Weight, build, first_line, make_weight
from gpu_report import DENSE, OURS, Row
from torch import Tensor

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


class Bench(gpu_bench.Bench):
    """Times jobs."""

    def __init__(self, *where: Any, adapters: dict[str, Adapter] = ADAPTERS, **options: Any) -> None:
        super().__init__(*where, **options)
        self.adapters = adapters
        self.notes: list[str] = []

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

    def run_job(self, job: Job) -> bool:
        """False if there was no time left."""
        spec = job.spec
        if self.late:
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
            if self.late:
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


def run(bench: Bench, quick: bool) -> None:
    bench.run(jobs(quick))
    if not any("the device is lost" in note for note in bench.notes):
        again = gpu_limits.measure()  # has the card become slower meanwhile?
        bench.machine["measured at the end"] = gpu_bench.figures(again)
        bench.write()
    print("\n" + gpu_report.short_table(bench.rows))
    if not any(row.contender == OURS for row in bench.rows):
        bench.fail("nothing of ours was timed")


if __name__ == "__main__":
    sys.exit(gpu_bench.run_program("w4a16", __doc__, Bench, run))
