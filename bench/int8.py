"""Products of 8-bit integers on the CPU: qcore beside torch's oneDNN linear and ``torch._int_mm``.

    python bench/int8.py                       M = 1, 16, 128, 512, N = K = 4096, 2 threads
    python bench/int8.py --m 1 --threads 1     less
    python bench/int8.py --thread-time         one thread by its processor time, on a busy machine

Contenders take turns; medians of the ratios within a round, so that what else runs on the machine falls on
all of them. Up to 32 rows of x the weights rotate over 256 MB. Beside them, in the same rounds: reading
memory, and the integer multiply units. Targets: 0.95 of oneDNN from M = 16 on, 0.95 of the memory's rate
for M = 1. Every result is compared with the exact product before it is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import timing
import torch
from cpu_timing import CpuClock, Probes
from rich.console import Console
from rich.table import Table
from torch import Tensor

from qcore import _C
from qcore.nn.huge_pages import in_huge_pages

ROTATED_ROWS = 32  # of x: beyond them a product is bound by arithmetic
OURS, ONEDNN, MEMORY, VNNI = "qcore int8_gemm", "oneDNN u8s8", "memory", "multiply units"

Calls = Sequence[Callable[[], Tensor]]


class ThreadClock(CpuClock):
    """The processor time of the calling thread: on a machine with much else to do, and for one thread."""

    def once(self, calls: Sequence[Callable[[], object]]) -> float:
        calls[0]()
        start = time.thread_time()
        for call in calls:
            call()
        return time.thread_time() - start

    def replay(self, captured: Sequence[Callable[[], object]], times: int) -> float:
        captured[-1]()
        start = time.thread_time()
        for _ in range(times):
            for call in captured:
                call()
        return time.thread_time() - start


class Problem:
    """The weights of several layers, and rows for them."""

    def __init__(self, m: int, n: int, k: int) -> None:
        generator = torch.Generator().manual_seed(0)
        copies = timing.copies_wanted(n * k, 1 << 40) if m <= ROTATED_ROWS else 1
        draw = torch.randint(-128, 128, (n, k), dtype=torch.int8, generator=generator)
        self.weights = [in_huge_pages(draw) for _ in range(copies)]  # as QLinear has them
        self.x = torch.randint(-128, 128, (m, k), dtype=torch.int8, generator=generator)
        self.x_scale = torch.full((m, 1), 0.02)
        self.w_scale = torch.rand(n, generator=generator) * 0.01 + 0.001
        self.exact = (self.x.double() @ draw.double().T) * 0.02 * self.w_scale.double()

    def qcore(self) -> Calls:
        sums = self.weights[0].sum(1, dtype=torch.int32)
        gemm = torch.ops.qcore.int8_gemm
        return [
            lambda w=w: gemm(self.x, w, self.x_scale, self.w_scale, None, None, None, sums)  # type: ignore[misc]
            for w in self.weights
        ]

    def qcore_without_sums(self) -> Calls:
        gemm = torch.ops.qcore.int8_gemm
        return [
            lambda w=w: gemm(self.x, w, self.x_scale, self.w_scale)  # type: ignore[misc]
            for w in self.weights
        ]

    def qcore_linear(self) -> Calls:
        """From floats, as QLinear calls it."""
        x, sums = self.x.float() * 0.02, self.weights[0].sum(1, dtype=torch.int32)
        linear = torch.ops.qcore.int8_linear
        return [lambda w=w: linear(x, w, self.w_scale, sums) for w in self.weights]  # type: ignore[misc]

    def onednn(self) -> Calls:
        """x with a zero point of 128, packed weights, float32 out."""
        x = (self.x.int() + 128).to(torch.uint8)
        zeros = torch.zeros(self.w_scale.numel(), dtype=torch.int32)
        packed = [torch.ops.onednn.qlinear_prepack(w, None) for w in self.weights]
        linear = torch.ops.onednn.qlinear_pointwise
        return [
            lambda p=p: linear(  # type: ignore[misc]
                x, 0.02, 128, p, self.w_scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
            )
            for p in packed
        ]

    def int_mm(self) -> Calls:
        """To int32, without scales."""
        return [lambda w=w: torch._int_mm(self.x, w.t()) for w in self.weights]  # type: ignore[misc]

    def error(self, name: str, y: Tensor) -> float:
        wide = y.double() * 0.02 * self.w_scale.double() if y.dtype == torch.int32 else y.double()
        return float((wide - self.exact).norm() / self.exact.norm())


CONTENDERS: dict[str, Callable[[Problem], Calls]] = {
    OURS: Problem.qcore,
    "qcore without w_sum": Problem.qcore_without_sums,
    "qcore int8_linear": Problem.qcore_linear,
    ONEDNN: Problem.onednn,
    "torch._int_mm": Problem.int_mm,
}


def measure(
    m: int, n: int, k: int, threads: int, rounds: int, probes: Probes, clock: CpuClock
) -> dict[str, object]:
    torch.set_num_threads(threads)
    problem, entries = Problem(m, n, k), []
    for name, make in CONTENDERS.items():
        calls = make(problem)
        error = problem.error(name, calls[0]())
        if not error < 0.02:  # int8_linear rounds x again
            raise SystemExit(f"{name} at M={m} is wrong by {error:.2e}")
        entries.append(timing.Entry(name, list(calls)))
    amounts = {}
    for name, (call, amount) in {MEMORY: probes.memory(threads), VNNI: probes.vnni(threads, 1 << 20)}.items():
        entries.append(timing.Entry(name, [call]))
        amounts[name] = amount
    for entry in entries:
        timing.prepare(entry, clock)
    times = timing.take_turns(entries, clock, rounds)
    flop, rows = 2.0 * m * n * k, {}
    memory, units = (sorted(times[name])[rounds // 2] for name in (MEMORY, VNNI))
    for name in CONTENDERS:
        seconds = statistics.median(times[name])
        rows[name] = {
            "us": seconds * 1e6,
            "GOP/s": flop / seconds * 1e-9,
            "GB/s": n * k / seconds * 1e-9,
            "of oneDNN": statistics.median(a / b for a, b in zip(times[ONEDNN], times[name], strict=True)),
            "of memory": n * k / seconds / (amounts[MEMORY] / memory),
            "of units": flop / seconds / (amounts[VNNI] / units),
        }
    return {"m": m, "n": n, "k": k, "threads": threads, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--m", type=int, nargs="+", default=[1, 16, 128, 512])
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--k", type=int, default=4096)
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--thread-time", action="store_true", help="processor time of one thread")
    arguments = parser.parse_args()
    clock = ThreadClock() if arguments.thread_time else CpuClock()
    if arguments.thread_time:
        arguments.threads = [1]
    console, probes, results = Console(width=120), Probes(), []
    for threads in arguments.threads:
        for m in arguments.m:
            result = measure(m, arguments.n, arguments.k, threads, arguments.rounds, probes, clock)
            results.append(result)
            table = Table(title=f"M={m} N={arguments.n} K={arguments.k}, {threads} threads, {_C.cpu_isa()}")
            columns = ("us", "GOP/s", "GB/s", "of oneDNN", "of memory", "of units")
            for column in ("", *columns):
                table.add_column(column, justify="right" if column else "left")
            for name, row in result["rows"].items():  # type: ignore[attr-defined]
                table.add_row(name, *(f"{row[c]:.2f}" if " " in c else f"{row[c]:.1f}" for c in columns))
            console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
