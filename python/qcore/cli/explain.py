"""`qcore explain`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from qcore.cli.common import DeviceName, DTypeName, errors

__all__ = ["explain"]


def explain(
    n: Annotated[int, typer.Argument(metavar="N", help="Out features.", min=1)],
    k: Annotated[int, typer.Argument(metavar="K", help="In features.", min=1)],
    m: Annotated[
        list[int] | None, typer.Option(help="Tokens, 1, 64 and 4096 by default. Repeatable.")
    ] = None,
    bits: Annotated[int, typer.Option(help="2, 3, 4 or 8.")] = 4,
    group_size: Annotated[int, typer.Option(help="Columns that share a scale; -1: all of a row.")] = 128,
    asymmetric: Annotated[bool, typer.Option("--asymmetric", help="With zero points.")] = False,
    dtype: Annotated[DTypeName, typer.Option(help="Of the activations.")] = DTypeName.bfloat16,
    device: Annotated[DeviceName, typer.Option(help="Where the product runs.")] = DeviceName.cpu,
    sm: Annotated[
        int | None,
        typer.Option(help="Compute capability, 90 for 9.0. By default that of the GPU here, if any."),
    ] = None,
    multiprocessors: Annotated[int | None, typer.Option(help="Of the GPU; likewise.")] = None,
    batch_invariant: Annotated[bool, typer.Option("--batch-invariant", help="See w4a16_gemm.")] = False,
) -> None:
    """Which kernel multiplies by a weight [N, K] of integer codes, how it is cut up, and why no other one is
    taken. Nothing runs, and no GPU is needed."""
    import torch

    from qcore import _C

    on_gpu = device is DeviceName.cuda
    if on_gpu and torch.cuda.is_available():
        present = torch.cuda.get_device_properties(0)
        sm = present.major * 10 + present.minor if sm is None else sm
        multiprocessors = present.multi_processor_count if multiprocessors is None else multiprocessors
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    table = Table("M", "kernel", "how")
    reasons: dict[str, str] = {}
    with errors():
        if dtype is DTypeName.auto:
            raise ValueError("--dtype: expected float32, float16 or bfloat16, got auto")
        for tokens in m or (1, 64, 4096):
            kernel, rejected, plan = _C.explain(
                "w4a16",
                tokens,
                n,
                k,
                group_size,
                bits,
                asymmetric,
                dtype.value,
                device.value,
                sm=sm or 0,
                multiprocessors=multiprocessors or 0,
                batch_invariant=batch_invariant,
            )
            table.add_row(str(tokens), kernel, plan or "-")
            reasons |= {f"{name}, M = {tokens}": why for name, why in rejected}
    console.print(table)
    for name, why in reasons.items():
        console.print(f"not {name}: {why}", soft_wrap=True)
