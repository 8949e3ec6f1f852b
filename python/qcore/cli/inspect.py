"""`qcore inspect`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from qcore.checkpoints.store import Row
from qcore.checkpoints.stores import inspect_checkpoint, store_at
from qcore.cli.common import errors

__all__ = ["inspect"]


def inspect(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A folder, Hugging Face id or GGUF file.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on standard output.")] = False,
) -> None:
    """What a checkpoint holds: each tensor's format, shape, bits per weight and bytes, and how much of it
    is in which format."""
    with errors():
        rows = inspect_checkpoint(path)
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    table = Table("tensor", "format", "shape", "bits/weight", "bytes")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        table.add_row(row.tensor, row.format, shape, f"{row.bits_per_weight:.3f}", f"{row.bytes:,}")
    weights, total = sum(row.weights for row in rows), sum(row.bytes for row in rows)
    table.add_section()
    table.add_row("all", "", f"{weights:,} weights", f"{total * 8 / max(weights, 1):.3f}", f"{total:,}")
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    console.print(_by_format(rows, store_at(path).named(path)))


def _by_format(rows: Sequence[Row], named: str | None) -> Table:
    """How much of the checkpoint is in which format."""
    title = None if named is None else f"{named}, by its metadata; what it holds:"
    table = Table("format", "tensors", "weights", "of all", "bytes", title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    alike: dict[str, list[Row]] = {}
    for row in rows:
        alike.setdefault(row.format, []).append(row)
    total = max(sum(row.weights for row in rows), 1)
    for format, held in sorted(alike.items(), key=lambda item: -sum(row.weights for row in item[1])):
        weights, size = sum(row.weights for row in held), sum(row.bytes for row in held)
        table.add_row(format, str(len(held)), f"{weights:,}", f"{weights / total:.1%}", f"{size:,}")
    return table
