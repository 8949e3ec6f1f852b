"""The tables of bench/kquant.py: each size's contenders, and what qcore reaches of what it should."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import kquant_quality
from rich.table import Table

OURS, MEMORY, VNNI = "qcore", "memory read", "VNNI peak"


@dataclass(frozen=True)
class Figure:
    """One contender at one size. `gb_per_s` counts the bytes of the weight."""

    contender: str
    type: str
    m: int
    n: int
    k: int
    threads: int
    microseconds: float
    least_us: float
    largest_us: float
    gb_per_s: float
    gflop_per_s: float
    error: float


@dataclass(frozen=True)
class Target:
    """At least, and the aim: as a fraction of the limit, which is the memory's or the multiply units'."""

    types: tuple[str, ...]
    m: int
    threads: int
    limit: str
    least: float
    aim: float


# GFLOP/s were stated for a machine whose two threads reach this many Gop/s.
STATED_PEAK = 1757
FIVE, TWO = ("Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0"), ("Q2_K", "Q3_K")
SIMPLE = ("Q4_K", "Q4_0", "Q8_0")
OTHERS = tuple(t for t in kquant_quality.TYPES if t not in SIMPLE)
TARGETS = (
    Target(FIVE, 1, 2, MEMORY, 0.93, 0.97),
    Target(FIVE, 1, 1, MEMORY, 0.85, 0.92),
    Target(TWO, 1, 2, MEMORY, 0.88, 0.93),
    Target(TWO, 1, 1, MEMORY, 0.80, 0.88),
    Target(("Q4_K",), 4, 2, VNNI, 550 / STATED_PEAK, 680 / STATED_PEAK),
    Target(("Q4_K",), 16, 2, VNNI, 900 / STATED_PEAK, 1150 / STATED_PEAK),
    Target(SIMPLE, 128, 2, VNNI, 0.70, 0.82),
    Target(SIMPLE, 512, 2, VNNI, 0.70, 0.82),
    Target(OTHERS, 512, 2, VNNI, 0.62, 0.75),
)
# Mweights per second and thread.
QUANTIZE_TARGETS = {"Q4_K": (30.0, 60.0), "Q6_K": (60.0, 100.0)}


def _right(table: Table, first: int) -> Table:
    for column in table.columns[first:]:
        column.justify = "right"
    return table


def at(figures: Sequence[Figure], type: str, m: int, n: int, threads: int) -> dict[str, Figure]:
    """By contender, the last one measured."""
    return {f.contender: f for f in figures if (f.type, f.m, f.n, f.threads) == (type, m, n, threads)}


def figure_table(figures: Sequence[Figure], type: str, m: int, n: int, threads: int) -> Table:
    found = at(figures, type, m, n, threads)
    title = f"{type}, M = {m}, N = {n}, {threads} thread{'s' * (threads > 1)}"
    table = Table(
        "contender", "us", "GB/s of weights", "of memory", "GFLOP/s", "of VNNI", "error", title=title
    )
    for name, f in found.items():
        probe = name in (MEMORY, VNNI)
        table.add_row(
            name,
            "" if probe else f"{f.microseconds:.0f}",
            f"{f.gb_per_s:.1f}" if f.gb_per_s else "",
            "" if probe else f"{f.gb_per_s / found[MEMORY].gb_per_s:.2f}",
            f"{f.gflop_per_s:.0f}" if f.gflop_per_s else "",
            "" if probe else f"{f.gflop_per_s / found[VNNI].gflop_per_s:.2f}",
            "" if probe else f"{f.error:.4f}",
            style="bold" if name == OURS else "",
        )
    return _right(table, 1)


def verdict(value: float, least: float, aim: float) -> str:
    return "aim" if value >= aim else "yes" if value >= least else f"no ({value / least:.2f})"


def target_table(figures: Sequence[Figure], speeds: Sequence[kquant_quality.Figure]) -> Table:
    """`met`: yes, aim, or no and the fraction of the least that is reached."""
    table = Table(
        "what", "N", "threads", "qcore", "of limit", "best other", "of limit", "ratio", "least", "aim", "met",
        title="Targets, as fractions of the limits measured in the same rounds",
    )  # fmt: skip
    for target in TARGETS:
        worth: Callable[[Figure], float] = (
            (lambda f: f.gb_per_s) if target.limit == MEMORY else (lambda f: f.gflop_per_s)
        )
        unit = "GB/s" if target.limit == MEMORY else "GFLOP/s"
        for type in target.types:
            for n in dict.fromkeys(f.n for f in figures):
                found = at(figures, type, target.m, n, target.threads)
                if OURS not in found:
                    continue
                limit = worth(found.pop(target.limit))
                ours = worth(found.pop(OURS))
                # Bytes differ between formats, so only contenders that read the same ones are compared
                # by them.
                others = {
                    name: worth(f)
                    for name, f in found.items()
                    if name not in (MEMORY, VNNI) and (target.limit == VNNI or name.startswith("llama.cpp"))
                }
                best = max(others.values(), default=math.nan)
                name = next((name for name, value in others.items() if value == best), "")
                table.add_row(
                    f"{type} M = {target.m}",
                    str(n),
                    str(target.threads),
                    f"{ours:.4g} {unit}",
                    f"{ours / limit:.2f}",
                    f"{name} {best:.4g}" if name else "",
                    f"{best / limit:.2f}" if name else "",
                    f"{ours / best:.2f}" if name else "",
                    f"{target.least:.2f}",
                    f"{target.aim:.2f}",
                    verdict(ours / limit, target.least, target.aim),
                )
        table.add_section()
    for type, (least, aim) in QUANTIZE_TARGETS.items():
        rates = {f.quantizer: f.value for f in speeds if (f.type, f.how) == (type, "plain")}
        if OURS not in rates:
            continue
        ours = rates.pop(OURS)
        best = max(rates, key=lambda name: rates[name], default="")
        table.add_row(
            f"quantize {type}", "", "1", f"{ours:.4g} Mweights/s", "",
            f"{best} {rates[best]:.4g}" if best else "", "", f"{ours / rates[best]:.2f}" if best else "",
            f"{least:g}", f"{aim:g}", verdict(ours, least, aim),
        )  # fmt: skip
    return _right(table, 1)
