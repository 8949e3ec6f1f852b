"""`qcore eval`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from qcore.cli.common import DeviceName, DTypeName, TrustRemoteCode, errors, present

if TYPE_CHECKING:
    from qcore.evaluation import EmbeddingEvaluation, Evaluation

__all__ = ["evaluate"]


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, Hugging Face id or GGUF file.")],
    text: Annotated[
        Path,
        typer.Option(help="What the model has not seen: a UTF-8 text, or JSON lines as for calibration."),
    ],
    reference: Annotated[
        str | None,
        typer.Option(help="The original model: adds KL divergence and top-1 agreement; encoders need it."),
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
    """Perplexity of MODEL on a text, and how far it is from a reference model. Of an encoder: how near its
    vectors are to the reference's, for each line of the text.

    Errors (+-) are standard errors of the mean over chunks.
    """
    import torch

    import qcore
    from qcore.encoders import is_encoder, pooling_of
    from qcore.text import TokenizerOf, read_sequences, read_texts

    with errors():
        where = present(device)
        wanted = None if dtype is DTypeName.auto else getattr(torch, dtype.value)
        tokenizer = TokenizerOf(model, trust_remote_code)
        loaded = qcore.load(model, wanted, where, trust_remote_code, float_activations=float_activations)
        encodes = is_encoder(loaded)
        if encodes and reference is None:
            raise ValueError(
                "--reference: MODEL is an encoder, whose vectors are compared with those of the original "
                "model; give that"
            )
        data = read_texts(text, "--text") if encodes else text
        tokens = read_sequences(data, tokenizer, chunk, chunks, "--text")
        other = None if reference is None else qcore.load(reference, wanted, where, trust_remote_code)
        result: Any
        if encodes and other is not None:
            result = qcore.evaluate_embeddings(loaded, tokens, other, pooling_of(model))
        else:
            result = qcore.evaluate(loaded, tokens, other)
    if as_json:
        figures = asdict(result)  # JSON has no NaN: the error of one chunk is none
        print(json.dumps({k: v if v is None or math.isfinite(v) else None for k, v in figures.items()}))
        return
    table = Table("figure", "value", "+-")
    for row in _of_embeddings(result) if encodes else _of_predictions(result):
        table.add_row(*row)
    Console().print(table)


def _of_predictions(result: Evaluation) -> Iterator[tuple[str, str, str]]:
    yield "perplexity", f"{result.perplexity:.4f}", f"{result.perplexity_error:.4f}"
    if result.kl is not None and result.top1 is not None:
        yield "KL to reference (nats/token)", f"{result.kl:.5f}", f"{result.kl_error:.5f}"
        yield "top-1 agreement", f"{result.top1:.2%}", ""
    yield "tokens", str(result.tokens), ""


def _of_embeddings(result: EmbeddingEvaluation) -> Iterator[tuple[str, str, str]]:
    yield "cosine to reference, mean", f"{result.cosine:.5f}", ""
    yield "cosine to reference, least", f"{result.cosine_min:.5f}", ""
    if result.neighbours is not None:
        yield "nearest neighbours kept", f"{result.neighbours:.2%}", ""
    yield "texts", str(result.texts), ""
