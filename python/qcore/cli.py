"""The command line: `qcore quantize`, `qcore eval`, `qcore inspect`, `qcore explain`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from qcore.io.compressed_tensors import is_exportable
from qcore.io.gguf import GGUF_SCHEMES
from qcore.methods import METHODS
from qcore.schemes import SCHEMES, is_static

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Quantize Hugging Face models, evaluate and inspect them.

A typical session:

    qcore quantize my-model my-model-w4 --scheme W4A16 --method gptq --calibration text.txt

    qcore eval my-model-w4 --text heldout.txt --reference my-model

    qcore inspect my-model-w4

The result is a Hugging Face folder in compressed-tensors, which vLLM, SGLang and transformers load. A
destination that ends in .gguf becomes a file for llama.cpp instead:

    qcore quantize my-model my-model.gguf --scheme Q4_K_M --method rtn
""",
)

# typer turns the members into the choices that it shows and accepts.
SchemeName = Enum("SchemeName", {name: name for name in {**SCHEMES, **GGUF_SCHEMES}})  # type: ignore[misc]
MethodName = Enum("MethodName", {name: name for name in METHODS})  # type: ignore[misc]


class DeviceName(str, Enum):
    cpu = "cpu"
    cuda = "cuda"


class DTypeName(str, Enum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    auto = "auto"


@app.command()
def quantize(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A Hugging Face folder or id.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The folder or .gguf file to write.")],
    scheme: Annotated[
        SchemeName | None,
        typer.Option(
            help="For a folder, W4A16 by default: bits of weights and inputs, _ASYM adds zero points (to "
            "weights, in W8A8 to inputs); FP8: both as 8-bit floats, FP8_BLOCK in blocks of 128. Scales "
            "of inputs are found at run time, by _STATIC and W8A8_ASYM from the calibration text. "
            "For a GGUF file, Q4_K_M by default: llama.cpp's mixes of types.",
            case_sensitive=False,
        ),
    ] = None,
    method: Annotated[
        MethodName,
        typer.Option(
            help="rtn rounds to nearest (no calibration, seconds); imatrix fits the grid where inputs are "
            "large; gptq corrects each rounding error in the columns still to come; awq scales up the "
            "channels that matter; awq+gptq does both, and takes longest."
        ),
    ] = MethodName["gptq"],
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="A UTF-8 text like what the model will see. Needed by all methods but rtn, and by schemes "
            "with static input scales."
        ),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(help="Columns that share a scale, 128 by default; -1: one scale per row. Folders only."),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            help="Layers to leave alone, lm_head by default: a name, its last part, or re:EXPRESSION. "
            "Repeatable. Folders only."
        ),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            help="re:EXPRESSION=TYPE, the type of tensors in whose GGUF name the expression is found, e.g. "
            "'re:ffn_down=Q6_K'. Repeatable, the first that fits counts. GGUF files only."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="Calibration sequences.", min=1)] = 64,
    sequence_length: Annotated[int, typer.Option(help="Tokens per calibration sequence.", min=2)] = 512,
    damping: Annotated[
        float, typer.Option(help="GPTQ: added to the Hessian's diagonal, relative to its mean.")
    ] = 0.01,
    act_order: Annotated[bool, typer.Option(help="GPTQ: columns with the largest inputs first.")] = True,
    search: Annotated[
        bool, typer.Option(help="Search each group's clipping range (rtn alone never does).")
    ] = True,
    sequential: Annotated[
        bool,
        typer.Option(help="Calibrate each layer behind the quantized layers of its own block too (slower)."),
    ] = True,
    shard_gb: Annotated[float, typer.Option(help="Size of the files to write, in GB.")] = 1.0,
    overwrite: Annotated[bool, typer.Option(help="Replace DST if it exists.")] = False,
) -> None:
    """Quantize SRC into the new folder, or GGUF file, DST.

    The model is never whole in memory: rtn holds one tensor at a time, the others one block. DST appears
    only once it is complete.
    """
    from qcore.folder import quantize_folder
    from qcore.gguf_export import quantize_gguf
    from qcore.io.checkpoint import resolve_source
    from qcore.text import token_chunks

    with _errors():
        to_gguf = destination.suffix.lower() == ".gguf"
        name = _scheme(scheme, to_gguf)
        _refuse(to_gguf, {"--group-size": group_size, "--ignore": ignore}, "a GGUF file; see --override")
        _refuse(not to_gguf, {"--override": override}, "a folder; see --ignore")
        chosen = _method(method.value, damping=damping, act_order=act_order, search=search)
        folder = resolve_source(source)
        tokens = None
        static = not to_gguf and is_static(SCHEMES[name])
        if chosen.needs_calibration or static:
            if calibration is None:
                needs = f"scheme {name}" if static else f"method {method.value}"
                raise ValueError(f"--calibration: {needs} needs a text file")
            tokens = token_chunks(folder, calibration, sequence_length, samples)
        start = time.perf_counter()
        if to_gguf:
            quantize_gguf(
                folder,
                destination,
                name,
                chosen,
                tokens,
                overrides=override or (),
                sequential=sequential,
                overwrite=overwrite,
            )
        else:
            quantize_folder(
                folder,
                destination,
                name,
                chosen,
                tokens,
                ignore=("lm_head",) if ignore is None else ignore,
                group_size=group_size,
                sequential=sequential,
                overwrite=overwrite,
                shard_bytes=int(shard_gb * (1 << 30)),
            )
        seconds = time.perf_counter() - start
    files = [destination] if to_gguf else destination.glob("*.safetensors")
    size = sum(f.stat().st_size for f in files)
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{destination}: {name} by {method.value}, {size / 1e6:.1f} MB, {seconds:.1f} s, "
        f"peak memory {_peak_memory_gb():.2f} GB"
    )


@app.command("eval")
def evaluate_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, Hugging Face id or GGUF file.")],
    text: Annotated[Path, typer.Option(help="A UTF-8 text that the model has not seen.")],
    reference: Annotated[
        str | None,
        typer.Option(help="The original model: adds KL divergence and top-1 agreement."),
    ] = None,
    chunk: Annotated[int, typer.Option(help="Tokens per chunk.", min=2)] = 512,
    chunks: Annotated[int, typer.Option(help="The most chunks to evaluate.", min=1)] = 48,
    dtype: Annotated[DTypeName, typer.Option(help="Of the activations.")] = DTypeName.float32,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Perplexity of MODEL on a text, and how far it is from a reference model.

    Errors (+-) are standard errors of the mean over chunks.
    """
    import torch

    from qcore.evaluation import evaluate
    from qcore.folder import load
    from qcore.text import token_chunks

    with _errors():
        wanted = None if dtype is DTypeName.auto else getattr(torch, dtype.value)
        tokens = token_chunks(model, text, chunk, chunks)
        loaded = load(model, dtype=wanted)
        other = None if reference is None else load(reference, dtype=wanted)
        result = evaluate(loaded, tokens, other)
    if as_json:
        print(json.dumps(asdict(result)))
        return
    table = Table("figure", "value", "+-")
    table.add_row("perplexity", f"{result.perplexity:.4f}", f"{result.perplexity_error:.4f}")
    if result.kl is not None and result.top1 is not None:
        table.add_row("KL to reference (nats/token)", f"{result.kl:.5f}", f"{result.kl_error:.5f}")
        table.add_row("top-1 agreement", f"{result.top1:.2%}", "")
    table.add_row("tokens", str(result.tokens), "")
    Console().print(table)


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A folder, Hugging Face id or GGUF file.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on standard output.")] = False,
) -> None:
    """What a checkpoint holds: each tensor's format, shape, bits per weight and bytes."""
    from qcore.inspection import inspect_checkpoint

    with _errors():
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


@app.command()
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
    with _errors():
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


def _scheme(scheme: SchemeName | None, to_gguf: bool) -> str:
    """The scheme's name, which must be one for this kind of destination."""
    known = list(GGUF_SCHEMES) if to_gguf else [n for n, f in SCHEMES.items() if is_exportable(f)]
    if scheme is None:
        return "Q4_K_M" if to_gguf else "W4A16"
    if scheme.value not in known:
        kind = "a GGUF file takes" if to_gguf else "a folder (DST does not end in .gguf) takes"
        raise ValueError(f"--scheme: {kind} one of {', '.join(known)}; got {scheme.value}")
    return str(scheme.value)


def _refuse(wrong: bool, options: dict[str, object], where: str) -> None:
    for name, value in options.items():
        if wrong and value is not None:
            raise ValueError(f"{name}: is not for {where}")


def _method(name: str, damping: float, act_order: bool, search: bool):  # type: ignore[no-untyped-def]
    from qcore.methods import Awq, Gptq, Imatrix, Rtn

    gptq = Gptq(damping=damping, act_order=act_order, search=search)
    # A folder must load everywhere, so AWQ only scales what an earlier module can absorb.
    return {
        "rtn": Rtn(),
        "imatrix": Imatrix(),
        "gptq": gptq,
        "awq": Awq(inner=Rtn(search=search), act_scale=False),
        "awq+gptq": Awq(inner=gptq, act_scale=False),
    }[name]


@contextmanager
def _errors() -> Iterator[None]:
    """What a user can mend is one line and exit code 1; a bug keeps its traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from error


def _peak_memory_gb() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


@app.callback()
def _quiet_unless_watched() -> None:
    if not sys.stderr.isatty():
        from transformers.utils import logging

        logging.disable_progress_bar()


def main() -> None:
    """Entry point of the `qcore` command."""
    app()
