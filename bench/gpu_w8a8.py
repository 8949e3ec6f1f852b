"""What gpu_int8.py and gpu_fp8.py share: 8-bit products and quantizers timed beside torch's.

Every call is compared with a float32 product of the same codes before it is timed, its memory poisoned with
NaN. Results are written after each size.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import gpu_bench
import gpu_check
import gpu_limits
import gpu_report
import timing
import torch
from gpu_report import number
from torch import Tensor

# K, N. Squares as libraries are compared by, and a layer of a large model.
SHAPES = ((8192, 28672), (4096, 4096), (8192, 8192), (4096, 14336))
SIZES = (1, 16, 32, 128, 512, 4096, 8192)
QUANTIZED = ((4096, 8192), (16384, 8192), (16, 8192))  # M, K
# Operations per second with 8 bits are twice those of bfloat16 on every card that has both.
RATE = 2.0

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Operands:
    """One product: x and the weight in bfloat16 and in 8 bits with their scales."""

    x: Tensor
    dense: Tensor
    xq: Tensor
    x_scale: Tensor  # [M, 1]
    wq: Tensor
    w_scale: Tensor  # [N, 1]

    def product(self) -> Tensor:
        return (self.xq.float() * self.x_scale) @ (self.wq.float() * self.w_scale).T


# Our calls, then those beside them: each takes Operands and gives a call, or raises what speaks against it.
Contenders = dict[str, Callable[[Operands], Call]]


@dataclass(frozen=True)
class Kind:
    """What gpu_int8.py and gpu_fp8.py differ in."""

    name: str  # "int8"
    quantize: Callable[[Tensor], tuple[Tensor, Tensor]]  # rows to codes and scales [rows, 1]
    gemm: Callable[[Operands], Call]
    contenders: Contenders
    quantizers: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]]  # ours: x to codes and scales


@dataclass(frozen=True)
class Row:
    what: str
    m: int
    k: int
    n: int
    microseconds: float
    least_us: float
    largest_us: float
    limit_us: float
    fraction: float  # the limit's time over the measured one
    tera_per_s: float  # operations; for a quantizer bytes
    error: float  # relative Frobenius norm
    peers_us: dict[str, float] = field(default_factory=dict)


def make_operands(kind: Kind, m: int, k: int, n: int, device: str) -> Operands:
    g = torch.Generator(device).manual_seed(m)
    x = torch.randn(m, k, device=device, generator=g).bfloat16()
    dense = (torch.randn(n, k, device=device, generator=g) * 0.02).bfloat16()
    return Operands(x, dense, *kind.quantize(x), *kind.quantize(dense))


class Bench(gpu_bench.Bench):
    """Times sizes of one kind."""

    def __init__(self, kind: Kind, *where: Any, **options: Any) -> None:
        super().__init__(*where, **options)
        self.kind = kind
        self.left_out: dict[str, str] = {}

    def run(
        self,
        shapes: tuple[tuple[int, int], ...],
        sizes: tuple[int, ...],
        quantized: tuple[tuple[int, int], ...],
    ) -> None:
        from qcore import ops  # noqa: F401 - registers torch.ops.qcore

        jobs: list[Callable[[], None]] = [
            *(lambda m=m, k=k, n=n: self.product(m, k, n) for k, n in shapes for m in sizes),  # type: ignore[misc]
            *(lambda m=m, k=k: self.quantizer(m, k) for m, k in quantized),  # type: ignore[misc]
        ]
        done = 0
        for job in jobs:
            if self.late:
                break
            job()
            done += 1
            self.write()
        self.complete = done == len(jobs)
        self.write()

    def product(self, m: int, k: int, n: int) -> None:
        one = make_operands(self.kind, m, k, n, self.device)
        many = [one]
        for _ in range(self.copies(one.wq.nbytes, 4) - 1):
            many.append(Operands(one.x, one.dense, one.xq, one.x_scale, one.wq.clone(), one.w_scale))
        dense = timing.rotated(one.dense, self.copies(one.dense.nbytes, 4))
        calls = {f"{self.kind.name}_gemm": [self.kind.gemm(o) for o in many]}
        for name, make in self.kind.contenders.items():
            try:
                those = [make(o) for o in many]
                those[0]()
                calls[name] = those
            except Exception as error:  # a peer may refuse a size, or lack the function
                self.left_out[name] = f"M = {m}, {k} x {n}: {str(error).splitlines()[0]}"
        linear = torch.nn.functional.linear
        calls["torch bf16"] = [lambda w=w: linear(one.x, w) for w in dense]  # type: ignore[misc]
        moved = one.wq.nbytes + m * k + m * n * 2
        with gpu_check.poisoned():
            errors = gpu_check.compare(calls[f"{self.kind.name}_gemm"][0](), one.product())
        wrong = errors.wrong(gpu_check.MOST_ERROR[torch.bfloat16])
        self.measure(m, k, n, calls, errors, wrong, moved, 2.0 * m * k * n)

    def quantizer(self, m: int, k: int) -> None:
        g = torch.Generator(self.device).manual_seed(m)
        x = torch.randn(m, k, device=self.device, generator=g).bfloat16()
        many = timing.rotated(x, self.copies(x.nbytes, 4))
        for name, quantize in self.kind.quantizers.items():
            calls = {name: [lambda c=c, f=quantize: f(c)[0] for c in many]}  # type: ignore[misc]
            with gpu_check.poisoned():
                codes, scale = quantize(x)
            # Codes stand for x up to half a step of a row's largest element.
            errors = gpu_check.compare(codes.float() * scale, x.float())
            self.measure(m, k, 0, calls, errors, errors.wrong(0.05), m * k * 3, 0.0)

    def measure(
        self,
        m: int,
        k: int,
        n: int,
        calls: dict[str, list[Call]],
        errors: gpu_check.Errors,
        wrong: str,
        moved: int,
        flop: float,
    ) -> None:
        """Times all in turns, unless ours, the first, is wrong."""
        entries = [timing.Entry(name, those) for name, those in calls.items()]
        what = entries[0].name
        if wrong:
            self.fail(f"{what} M = {m}, {k} x {n}: {wrong}")
            return
        for entry in entries:
            timing.prepare(entry, self.clock)
        times = timing.take_turns(entries, self.clock, self.rounds)
        median, least, largest = timing.summary(times.pop(what))
        limit = gpu_limits.limit_seconds(moved, flop / RATE, self.limits)
        row = Row(
            *(what, m, k, n, median * 1e6, least * 1e6, largest * 1e6, limit * 1e6, limit / median),
            tera_per_s=(flop or moved) / median * 1e-12,
            error=errors.whole,
            peers_us={name: timing.summary(those)[0] * 1e6 for name, those in times.items()},
        )
        self.rows.append(row)
        print(f"  {' '.join(self.cells(row))}", flush=True)

    def names(self) -> list[str]:
        return [*self.kind.contenders, "torch bf16"]

    def cells(self, row: Row) -> list[str]:
        size = f"{row.k} x {row.n}" if row.n else str(row.k)
        peers = [number(row.peers_us[name]) if name in row.peers_us else "-" for name in self.names()]
        figures = (
            number(row.microseconds),
            f"{row.fraction:.2f}",
            number(row.tera_per_s),
            f"{row.error:.1e}",
        )
        return [row.what, str(row.m), size, *figures, *peers]

    def write(self) -> None:
        data = {"complete": self.complete, "machine": self.machine, "failures": self.failures}
        rows = [asdict(row) for row in self.rows]
        text = json.dumps(
            gpu_report.plain(data | {"left_out": self.left_out, "rows": rows}), indent=1, allow_nan=False
        )
        gpu_report.write_atomically(self.out / f"{self.kind.name}.json", text + "\n")
        gpu_report.write_atomically(self.out / f"{self.kind.name}.md", self.markdown())

    def markdown(self) -> str:
        parts = [f"# {self.kind.name} on {self.machine['gpu']}\n"]
        if not self.complete:
            parts.append("**This run did not finish: the rows that it had.**\n")
        parts.append("".join(f"- {key}: {value}\n" for key, value in self.machine.items()))
        parts.append(
            "Medians of rounds in which the calls took turns, over copies of the weight that rotate through\n"
            "more memory than the caches hold. `of limit`: against the larger of the bytes moved over the\n"
            "bandwidth and the operations over twice the bf16 rate. `T/s`: 10^12 operations a second; for a\n"
            "quantizer bytes. x is quantized row by row, the weight column by column, y is bfloat16.\n"
        )
        header = ("what", "M", "K x N", "us", "of limit", "T/s", "error", *(f"{n}, us" for n in self.names()))
        parts.append(gpu_report.markdown_table(header, (self.cells(row) for row in self.rows)))
        for title, lines in (
            ("Left out", [f"{name}: {why}" for name, why in self.left_out.items()]),
            ("Wrong", self.failures),
        ):
            if lines:
                parts.append(f"## {title}\n\n" + "".join(f"- {line}\n" for line in lines))
        return "\n".join(parts)


def main(kind: Kind, doc: str | None) -> int:
    def run(bench: Bench, quick: bool) -> None:
        if quick:
            bench.run(SHAPES[:2], (1, 16, 512, 4096), QUANTIZED[:1])
        else:
            bench.run(SHAPES, SIZES, QUANTIZED)

    return gpu_bench.run_program(kind.name, doc, partial(Bench, kind), run)
