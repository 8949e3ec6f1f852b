"""`qcore inspect`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from qcore.cli.common import errors

__all__ = ["inspect"]


def inspect(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A folder, Hugging Face id or GGUF file.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on standard output.")] = False,
) -> None:
    """What a checkpoint holds: each tensor's format, shape, bits per weight and bytes."""
    from qcore.checkpoints.stores import inspect_checkpoint

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
    Console(width=None if sys.stdout.isatty() else 140).print(table)
