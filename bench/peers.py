"""`torch.ops.qcore.w4a16_gemm` beside torch's own linear layers, in one run, on the CPU.

    python bench/peers.py                     M = 1, 4, 16, 128 at 4096 x 4096
    python bench/peers.py --m 1 --n 14336 --json bench/results/cpu.json

Each contender's weights rotate over at least 256 MB, so that none is served from a cache; contenders take
turns, round after round; medians are printed, and a bandwidth probe runs in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import timing
import torch
from cpu_timing import CpuClock, Probes
from rich.console import Console
from rich.table import Table
from torch.nn.functional import linear

from qcore import _C, ops


@dataclass(frozen=True)
class Figure:
    """One contender at one size. `gb_per_s` counts the bytes of the weight."""

    contender: str
    m: int
    n: int
    k: int
    threads: int
    microseconds: float
    gb_per_s: float
    gflop_per_s: float


def qcore_calls(
    n: int, k: int, bits: int, group_size: int, x: torch.Tensor
) -> tuple[list[Callable[[], object]], int]:
    groups = k // group_size
    scales = torch.rand(n, groups).to(torch.bfloat16) * 0.01
    codes = torch.randint(0, 2**bits, (n, k), dtype=torch.uint8)
    first = ops.w4a16_pack(codes, scales, None, group_size, bits)
    size = first.qweight.numel() + first.scales.numel() * 2
    weights = [first] + [
        ops.PackedW4A16(*(t.clone() for t in first)) for _ in range(timing.ROTATE_BYTES // size)
    ]
    return [lambda w=w: ops.w4a16_gemm(x, *w) for w in weights], size  # type: ignore[misc]


def torch_calls(n: int, k: int, x: torch.Tensor) -> tuple[list[Callable[[], object]], int]:
    size = n * k * x.element_size()
    weights = [torch.randn(n, k, dtype=x.dtype) for _ in range(1 + timing.ROTATE_BYTES // size)]
    return [lambda w=w: linear(x, w) for w in weights], size  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--m", type=int, nargs="+", default=[1, 4, 16, 128])
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--k", type=int, default=4096)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    n, k = arguments.n, arguments.k
    clock, probes = CpuClock(), Probes()
    figures: list[Figure] = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for m in arguments.m:
            x32 = torch.randn(m, k)
            x16 = x32.bfloat16()
            contenders = {
                f"qcore W{bits}A16 g{arguments.group_size}, {str(x.dtype)[6:]}": qcore_calls(
                    n, k, bits, arguments.group_size, x
                )
                for bits, x in ((4, x16), (4, x32), (2, x16), (3, x16), (8, x16))
            }
            contenders["torch linear, bfloat16"] = torch_calls(n, k, x16)
            contenders["torch linear, float32"] = torch_calls(n, k, x32)
            read, size = probes.memory(threads)
            contenders["memory read"] = [read], int(size)
            entries = [timing.Entry(name, calls) for name, (calls, _) in contenders.items()]
            for entry in entries:
                timing.prepare(entry, clock)
            for name, times in timing.take_turns(entries, clock, arguments.rounds).items():
                t, size = timing.summary(times)[0], contenders[name][1]
                flop = 0.0 if name == "memory read" else 2 * m * n * k / t / 1e9
                figures.append(Figure(name, m, n, k, threads, t * 1e6, size / t / 1e9, flop))
    table = Table("M", "threads", "contender", "us", "GB/s of weights", "GFLOP/s", "against bf16")
    for column in (*table.columns[:2], *table.columns[3:]):
        column.justify = "right"
    last = None
    for f in figures:
        if last not in (None, (f.m, f.threads)):
            table.add_section()
        last = (f.m, f.threads)
        base = next(
            g.microseconds
            for g in figures
            if (g.m, g.threads, g.contender) == (f.m, f.threads, "torch linear, bfloat16")
        )
        ratio = "" if f.contender == "memory read" else f"{base / f.microseconds:.2f} x"
        flops = "" if f.gflop_per_s == 0 else f"{f.gflop_per_s:.0f}"
        table.add_row(
            str(f.m), str(f.threads), f.contender, f"{f.microseconds:.0f}", f"{f.gb_per_s:.1f}", flops, ratio
        )
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(
        f"N = {n}, K = {k}, {_C.cpu_isa()}, torch {torch.__version__}, medians of {arguments.rounds} rounds"
    )
    console.print(table)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps([asdict(f) for f in figures], indent=2) + "\n")


if __name__ == "__main__":
    main()
