"""`qcore eval`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from qcore.cli.common import DeviceName, DTypeName, TrustRemoteCode, errors, present

__all__ = ["evaluate"]


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, Hugging Face id or GGUF file.")],
    text: Annotated[Path, typer.Option(help="A UTF-8 text that the model has not seen.")],
    reference: Annotated[
        str | None,
        typer.Option(help="The original model: adds KL divergence and top-1 agreement."),
    ] = None,
    chunk: Annotated[int, typer.Option(help="Tokens per chunk.", min=2)] = 512,
    chunks: Annotated[int, typer.Option(help="The most chunks to evaluate.", min=1)] = 48,
    dtype: Annotated[DTypeName, typer.Option(help="Of the activations.")] = DTypeName.float32,
    device: Annotated[DeviceName, typer.Option(help="Where the models run.")] = DeviceName.cpu,
    float_activations: Annotated[
        bool,
        typer.Option(
            "--float-activations",
            help="Multiply inputs as they are, where GGUF's types and schemes with 8-bit inputs would have "
            "them rounded to 8 bits. Slower; shows what that rounding costs.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Perplexity of MODEL on a text, and how far it is from a reference model.

    Errors (+-) are standard errors of the mean over chunks.
    """
    import torch

    import qcore
    from qcore.text import token_chunks

    with errors():
        where = present(device)
        wanted = None if dtype is DTypeName.auto else getattr(torch, dtype.value)
        tokens = token_chunks(model, text, chunk, chunks, trust_remote_code)
        loaded = qcore.load(model, wanted, where, trust_remote_code, float_activations=float_activations)
        other = None if reference is None else qcore.load(reference, wanted, where, trust_remote_code)
        result = qcore.evaluate(loaded, tokens, other)
    if as_json:
        figures = asdict(result)  # JSON has no NaN: the error of one chunk is none
        print(json.dumps({k: v if v is None or math.isfinite(v) else None for k, v in figures.items()}))
        return
    table = Table("figure", "value", "+-")
    table.add_row("perplexity", f"{result.perplexity:.4f}", f"{result.perplexity_error:.4f}")
    if result.kl is not None and result.top1 is not None:
        table.add_row("KL to reference (nats/token)", f"{result.kl:.5f}", f"{result.kl_error:.5f}")
        table.add_row("top-1 agreement", f"{result.top1:.2%}", "")
    table.add_row("tokens", str(result.tokens), "")
    Console().print(table)
