"""The rows of a GPU run as JSON and markdown, written so that a run that is cut short leaves what it had."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OURS = "qcore"
DENSE = "torch"


@dataclass(frozen=True)
class Row:
    """One contender at one size. `tb_per_s` counts the packed weight, x and y; `fraction` is the limit's
    time over the measured one, `speedup` the time of torch's dense product over this one."""

    contender: str
    kernel: str
    dtype: str
    m: int
    k: int
    n: int
    bits: int
    group_size: int
    asymmetric: bool
    act_order: bool
    float8: bool
    microseconds: float
    least_us: float
    largest_us: float
    limit_us: float
    tb_per_s: float
    tflop_per_s: float
    fraction: float
    speedup: float  # NaN without a dense time
    error: float  # relative Frobenius norm
    copies: int  # of the weight, rotating
    weight_bytes: int

    @property
    def weight(self) -> str:
        """What stands above a table: everything but M and the contender."""
        extra = ", asymmetric" * self.asymmetric + ", act-order" * self.act_order + ", float8" * self.float8
        return f"{self.k} x {self.n}, W{self.bits} g{self.group_size}{extra}, {self.dtype}"


def folder_name(gpu: str) -> str:
    """NVIDIA H100 80GB HBM3 -> nvidia-h100-80gb-hbm3"""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")


def number(value: float, digits: int = 3) -> str:
    """Significant digits without an exponent; a dash for what was not measured."""
    if math.isnan(value):
        return "-"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns also line up as plain text."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["| " + " | ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|")
    return "\n".join(lines) + "\n"


def weight_table(rows: Sequence[Row]) -> str:
    """All rows of one weight: ours in full, microseconds of the others."""
    others = list(dict.fromkeys(row.contender for row in rows if row.contender != OURS))
    header = ["M", "us", "TB/s", "TFLOP/s", "of limit", "vs torch", "error", "kernel"]
    table = []
    for m in sorted({row.m for row in rows}):
        at = {row.contender: row for row in rows if row.m == m}
        ours = at.get(OURS)
        if ours is None:
            cells = [str(m)] + ["-"] * 7
        else:
            cells = [str(m), number(ours.microseconds), number(ours.tb_per_s), number(ours.tflop_per_s)]
            cells += [f"{ours.fraction:.2f}", number(ours.speedup) + " x", f"{ours.error:.1e}", ours.kernel]
        cells += [number(at[name].microseconds) if name in at else "-" for name in others]
        table.append(cells)
    return markdown_table(header + [f"{name}, us" for name in others], table)


def by_weight(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.weight, []).append(row)
    return groups


def markdown(machine: dict[str, Any], rows: Sequence[Row], notes: Sequence[str], complete: bool) -> str:
    parts = [f"# W4A16 on {machine['gpu']}\n"]
    if not complete:
        parts.append("**This run did not finish: the rows that it had.**\n")
    parts.append("".join(f"- {key}: {value}\n" for key, value in machine.items()))
    parts.append(
        "Medians of rounds in which the contenders took turns; CUDA graphs over copies of the weight that\n"
        "rotate through more memory than the caches hold. TB/s counts the packed weight, x and y; the limit\n"
        "is the larger of these bytes over the bandwidth and the operations over the bf16 rate. `vs torch`\n"
        "is against torch's own product with the dense weight in the same dtype; `error` is the relative\n"
        "Frobenius norm against a float32 product.\n"
    )
    parts += [f"## {name}\n\n{weight_table(group)}" for name, group in by_weight(rows).items()]
    if notes:
        parts.append("## Not timed\n\n" + "".join(f"- {note}\n" for note in notes))
    return "\n".join(parts)


def short_table(rows: Sequence[Row]) -> str:
    """Fraction of the limit and speed-up over torch, a line per weight and a column per M."""
    ours = [row for row in rows if row.contender == OURS]
    if not ours:
        return "no row of qcore was timed\n"
    sizes = sorted({row.m for row in ours})
    table = []
    for name, group in by_weight(ours).items():
        at = {row.m: row for row in group}
        cells = [f"{at[m].fraction:.2f} {number(at[m].speedup, 2)}x" if m in at else "" for m in sizes]
        table.append([name, *cells])
    return markdown_table(["fraction of the limit, vs torch", *(f"M={m}" for m in sizes)], table)


def write_atomically(path: Path, text: str) -> None:
    """A reader, or a run that is cut, never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def write(
    folder: Path, machine: dict[str, Any], rows: Sequence[Row], notes: Sequence[str], complete: bool
) -> None:
    """Writes w4a16.json and w4a16.md."""
    data = {"complete": complete, "machine": machine, "notes": notes, "rows": [asdict(row) for row in rows]}
    write_atomically(folder / "w4a16.json", json.dumps(plain(data), indent=1, allow_nan=False) + "\n")
    write_atomically(folder / "w4a16.md", markdown(machine, rows, notes, complete))
