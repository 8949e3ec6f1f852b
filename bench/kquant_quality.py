"""Errors and speed of the block quantizers: qcore beside llama.cpp (where llama-cpp-python is installed).

    python bench/kquant_quality.py                       all types, all distributions
    python bench/kquant_quality.py --types Q4_K Q6_K --no-speed

The error is sum h (w - w')^2 / sum h w^2: h = 1, or the importance that the quantizer was given. Speed is
that of one thread, in millions of weights per second: to quantize without and with importance, to
dequantize. Both programs get the same data and take turns.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cpu_timing
import numpy as np
import timing
import torch
from ggml import Ggml, Missing
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from qcore import _C, ops

Floats = NDArray[np.float32]
Blocks = NDArray[np.uint8]
MODEL = Path(__file__).resolve().parents[1] / "models" / "pydoc-llama-7m" / "model.safetensors"
TYPES = tuple(block["name"] for block in ops.block_formats())
DISTRIBUTIONS = ("gaussian", "laplace", "model")


@dataclass(frozen=True)
class Sample:
    """A weight [N, K] and the importance [K] of its columns."""

    weight: Floats
    importance: Floats


def samples(distribution: str, layers: Sequence[int] = (0,)) -> list[Sample]:
    """The same numbers on every machine: RandomState's streams are frozen by numpy's promise."""
    rng = np.random.RandomState(DISTRIBUTIONS.index(distribution))
    if distribution == "model":
        with safe_open(MODEL, framework="pt") as file:
            names = [
                name for name in sorted(file.keys()) if "_proj" in name and int(name.split(".")[2]) in layers
            ]
            weights = [file.get_tensor(name).float().numpy() for name in names]
    else:
        draw = rng.standard_normal if distribution == "gaussian" else rng.laplace
        weights = [np.asarray(draw(size=(256, 1024)), np.float32) * np.float32(0.02)]
    # Squared inputs of a linear layer spread like this: most columns alike, a few far above.
    return [Sample(w, np.exp(rng.standard_normal(w.shape[1])).astype(np.float32)) for w in weights]


@dataclass(frozen=True)
class Quantizer:
    """`quantize(type, w, importance)` and `dequantize(type, blocks, k)`."""

    name: str
    quantize: Callable[[str, Floats, Floats | None], Blocks]
    dequantize: Callable[[str, Blocks, int], object]


def of_qcore() -> Quantizer:
    def quantize(type: str, w: Floats, importance: Floats | None = None) -> Blocks:
        given = None if importance is None else torch.from_numpy(importance)
        return ops.kquant_quantize(torch.from_numpy(w), type, given).numpy()

    def dequantize(type: str, blocks: Blocks, k: int) -> object:
        return ops.kquant_dequantize(torch.from_numpy(blocks), type, k)

    return Quantizer("qcore", quantize, dequantize)


def of_llama(ggml: Ggml) -> Quantizer:
    return Quantizer("llama.cpp", ggml.quantize, ggml.dequantize)


def relative_error(quantizer: Quantizer, type: str, given: Sequence[Sample], weighted: bool) -> float:
    """Over all samples together."""
    lost = total = 0.0
    for sample in given:
        h = sample.importance if weighted else None
        blocks = quantizer.quantize(type, sample.weight, h)
        w, k = sample.weight.astype(np.float64), sample.weight.shape[1]
        made = ops.kquant_dequantize(torch.from_numpy(blocks), type, k).numpy().astype(np.float64)
        scale = np.ones(k) if h is None else h.astype(np.float64)
        lost += float(((w - made) ** 2 @ scale).sum())
        total += float((w**2 @ scale).sum())
    return lost / total


@dataclass(frozen=True)
class Figure:
    """One number: `what` is a distribution, or "Mweights/s"; `how` is plain, weighted or dequantize."""

    quantizer: str
    type: str
    what: str
    how: str
    value: float


def measure_errors(
    quantizers: Sequence[Quantizer], types: Sequence[str], layers: Sequence[int]
) -> list[Figure]:
    return [
        Figure(q.name, type, distribution, "weighted" if weighted else "plain", error)
        for distribution in DISTRIBUTIONS
        for given in [samples(distribution, layers)]
        for type in types
        for weighted in (False, True)
        for q in quantizers
        for error in [relative_error(q, type, given, weighted)]
    ]


def measure_speeds(quantizers: Sequence[Quantizer], types: Sequence[str], rounds: int) -> list[Figure]:
    """One thread."""
    (sample,) = samples("gaussian")
    k, count = sample.weight.shape[1], sample.weight.size
    clock, figures = cpu_timing.CpuClock(settle=0), []
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for type in types:
        made = {
            f"{q.name} {how}": (q, how, call)
            for q in quantizers
            for blocks in [q.quantize(type, sample.weight, None)]
            for how, call in (
                ("plain", partial(q.quantize, type, sample.weight, None)),
                ("weighted", partial(q.quantize, type, sample.weight, sample.importance)),
                ("dequantize", partial(q.dequantize, type, blocks, k)),
            )
        }
        entries = [timing.Entry(name, [call]) for name, (_, _, call) in made.items()]  # type: ignore[list-item]
        for entry in entries:
            timing.prepare(entry, clock)
        for name, times in timing.take_turns(entries, clock, rounds).items():
            q, how, _ = made[name]
            figures.append(Figure(q.name, type, "Mweights/s", how, count / timing.summary(times)[0] / 1e6))
    torch.set_num_threads(before)
    return figures


def table_of(figures: Sequence[Figure], what: str, hows: Sequence[str]) -> Table:
    names = list(dict.fromkeys(f.quantizer for f in figures))
    table = Table("type", *(f"{name}, {how}" for how in hows for name in [*names, "ratio"]), title=what)
    for column in table.columns[1:]:
        column.justify = "right"
    form = "{:.4g}" if what == "Mweights/s" else "{:.4e}"
    for type in dict.fromkeys(f.type for f in figures if f.what == what):
        cells = []
        for how in hows:
            found = {f.quantizer: f.value for f in figures if (f.type, f.what, f.how) == (type, what, how)}
            cells += [form.format(found[name]) for name in names]
            cells.append(f"{found['qcore'] / found['llama.cpp']:.4f}" if len(found) == 2 else "")
        table.add_row(type, *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--types", nargs="+", default=list(TYPES), choices=TYPES, metavar="TYPE")
    parser.add_argument("--layers", type=int, nargs="+", default=list(range(8)), help="of the bundled model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-speed", action="store_true", help="errors alone")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 130)
    quantizers = [of_qcore()]
    try:
        quantizers.append(of_llama(Ggml.load()))
    except Missing as reason:
        console.print(f"without llama.cpp: {reason}")
    figures = measure_errors(quantizers, arguments.types, arguments.layers)
    for distribution in DISTRIBUTIONS:
        console.print(table_of(figures, distribution, ("plain", "weighted")))
    if not arguments.no_speed:
        figures += measure_speeds(quantizers, arguments.types, arguments.rounds)
        console.print(f"one thread, {_C.cpu_isa()}, medians of {arguments.rounds} rounds")
        console.print(table_of(figures, "Mweights/s", ("plain", "weighted", "dequantize")))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps([asdict(f) for f in figures], indent=2) + "\n")


if __name__ == "__main__":
    main()
