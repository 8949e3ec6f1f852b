"""Times torch.ops.qcore.kquant_gemm and kquant_dequantize on the present GPU beside torch's dense product.

    bench/gpu --only time              the way to run it: builds and finds the package first
    python bench/gpu_kquant.py --out DIR [--quick] [--seconds S]

Every call is compared with the CPU's values of the same blocks before it is timed, its memory poisoned with
NaN. Results are written after each type, as kquant.json and kquant.md.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import gpu_bench
import gpu_check
import gpu_limits
import gpu_report
import timing
import torch
from gpu_report import number
from torch import Tensor
from torch.nn.functional import linear

# Those that most files hold come first.
TYPES = (
    *("Q4_K", "Q6_K", "Q5_K", "Q8_0", "Q3_K", "Q2_K", "IQ4_XS", "MXFP4"),
    *("Q4_0", "Q5_0", "Q4_1", "Q5_1", "IQ4_NL", "TQ2_0", "TQ1_0"),
)
SHAPE = (4096, 14336)  # K, N
SIZES = (1, 4, 8, 16, 32, 64, 256, 1024)
DEQUANTIZE = "dequantize"


@dataclass(frozen=True)
class Row:
    type: str
    what: str  # "gemm" or "dequantize"
    kernel: str
    m: int
    k: int
    n: int
    microseconds: float
    least_us: float
    largest_us: float
    limit_us: float
    fraction: float  # the limit's time over the measured one
    dense_us: float  # torch's product with the dense bfloat16 weight
    error: float  # relative Frobenius norm
    weight_bytes: int


@dataclass(frozen=True)
class Weight:
    """Random blocks of a type, with scales as in a model, and what they stand for, in float32."""

    type: str
    n: int
    k: int
    blocks: Tensor
    values: Tensor

    def product(self, x: Tensor) -> Tensor:
        return x.float() @ self.values.T


def make_weight(type: str, k: int, n: int, device: str, rows: int = 64) -> Weight:
    """Encoding is slow, so the rows of a few are repeated in another order."""
    from qcore import ops

    g = torch.Generator().manual_seed(0)
    few = ops.kquant_quantize(torch.randn(min(rows, n), k, generator=g) * 0.02 + 0.004, type)
    blocks = few[torch.randint(0, len(few), (n,), generator=g)]
    return Weight(type, n, k, blocks.to(device), ops.kquant_dequantize(blocks, type, k).to(device))


class Bench(gpu_bench.Bench):
    """Times types."""

    def run(self, types: tuple[str, ...], shape: tuple[int, int], sizes: tuple[int, ...]) -> None:
        for type in types:
            if self.late:
                break
            print(f"\n{type}", flush=True)
            self.run_type(make_weight(type, *shape, self.device), sizes)
            self.write()
        self.complete = {row.type for row in self.rows} == set(types)
        self.write()

    def rotated(self, state: Tensor) -> list[Tensor]:
        return timing.rotated(state, self.copies(state.nbytes, 3))

    def run_type(self, weight: Weight, sizes: tuple[int, ...]) -> None:
        from qcore import _C, ops

        gemm = torch.ops.qcore.kquant_gemm
        arguments = (weight.type, weight.n, weight.k)
        packed = self.rotated(ops.kquant_pack(weight.blocks, weight.type, weight.k))
        dense = self.rotated(weight.values.bfloat16())
        for m in sizes:
            g = torch.Generator(self.device).manual_seed(m)
            x = torch.randn(m, weight.k, device=self.device, generator=g).bfloat16()
            calls: dict[str, list[Callable[[], Tensor]]] = {
                "gemm": [lambda p=p, x=x: gemm(x, p, *arguments, None, True) for p in packed],  # type: ignore[misc]
                "torch": [lambda w=w, x=x: linear(x, w) for w in dense],  # type: ignore[misc]
            }
            flop = 2.0 * m * weight.k * weight.n
            kernel = _C.explain_kquant(weight.type, m, weight.n, weight.k, "bfloat16", self.device)[0]
            moved = packed[0].nbytes + m * (weight.k + weight.n) * 2
            self.measure(weight, "gemm", kernel, m, calls, weight.product(x), (moved, flop))
        del packed, dense
        blocks = self.rotated(weight.blocks)
        decode = torch.ops.qcore.kquant_dequantize
        calls = {
            DEQUANTIZE: [lambda b=b: decode(b, weight.type, weight.k, torch.bfloat16) for b in blocks]  # type: ignore[misc]
        }
        moved = weight.blocks.nbytes + weight.n * weight.k * 2
        self.measure(weight, DEQUANTIZE, DEQUANTIZE, 0, calls, weight.values, (moved, 0.0))

    def measure(
        self,
        weight: Weight,
        what: str,
        kernel: str,
        m: int,
        calls: dict[str, list[Callable[[], Tensor]]],
        reference: Tensor,
        cost: tuple[int, float],
    ) -> None:
        """Compares, then times the calls in turns; `cost`: bytes moved and operations."""
        entries = [timing.Entry(name, those) for name, those in calls.items()]
        with gpu_check.poisoned():
            errors = gpu_check.compare(entries[0].calls[0](), reference)
        if wrong := errors.wrong(gpu_check.MOST_ERROR[torch.bfloat16]):
            self.fail(f"{weight.type} {what} M = {m}: {wrong}")
            return
        for entry in entries:
            timing.prepare(entry, self.clock)
        times = timing.take_turns(entries, self.clock, self.rounds)
        median, least, largest = timing.summary(times[what])
        limit = gpu_limits.limit_seconds(*cost, self.limits)
        row = Row(
            type=weight.type,
            what=what,
            kernel=kernel,
            m=m,
            k=weight.k,
            n=weight.n,
            microseconds=median * 1e6,
            least_us=least * 1e6,
            largest_us=largest * 1e6,
            limit_us=limit * 1e6,
            fraction=limit / median,
            dense_us=timing.summary(times["torch"])[0] * 1e6 if "torch" in times else math.nan,
            error=errors.whole,
            weight_bytes=weight.blocks.nbytes,
        )
        self.rows.append(row)
        print(f"  {' '.join(cells(row))}", flush=True)

    def write(self) -> None:
        data = {"complete": self.complete, "machine": self.machine, "failures": self.failures}
        rows = [asdict(row) for row in self.rows]
        text = json.dumps(gpu_report.plain(data | {"rows": rows}), indent=1, allow_nan=False)
        gpu_report.write_atomically(self.out / "kquant.json", text + "\n")
        gpu_report.write_atomically(self.out / "kquant.md", self.markdown())

    def markdown(self) -> str:
        parts = [f"# Block formats on {self.machine['gpu']}\n"]
        if not self.complete:
            parts.append("**This run did not finish: the rows that it had.**\n")
        parts.append("".join(f"- {key}: {value}\n" for key, value in self.machine.items()))
        parts.append(
            "Medians of rounds in which the calls took turns, over copies of the weight that rotate through\n"
            "more memory than the caches hold. `of limit`: against the larger of the bytes moved over the\n"
            "bandwidth and the operations over the bf16 rate. x, y and decoded elements are bfloat16.\n"
        )
        table = gpu_report.markdown_table(HEADER, (cells(row) for row in self.rows))
        failures = "".join(f"- {failure}\n" for failure in self.failures)
        return "\n".join([*parts, table, f"## Wrong\n\n{failures}" if failures else ""])


HEADER = ("type", "M", "K x N", "us", "of limit", "torch dense, us", "vs torch", "error", "kernel")


def cells(row: Row) -> list[str]:
    m = "-" if row.what == DEQUANTIZE else str(row.m)
    speedup = number(row.dense_us / row.microseconds) + " x"
    return [
        row.type,
        m,
        f"{row.k} x {row.n}",
        number(row.microseconds),
        f"{row.fraction:.2f}",
        number(row.dense_us),
        speedup if row.what == "gemm" else "-",
        f"{row.error:.1e}",
        row.kernel,
    ]


def run(bench: Bench, quick: bool) -> None:
    if quick:
        bench.run(TYPES[:4], SHAPE, (1, 16, 256))
    else:
        bench.run(TYPES, SHAPE, SIZES)


if __name__ == "__main__":
    sys.exit(gpu_bench.run_program("kquant", __doc__, Bench, run))
