"""`qcore quantize`."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from qcore.checkpoints.store import Store
from qcore.checkpoints.stores import STORES, store_at, store_for
from qcore.cli.common import DeviceName, TrustRemoteCode, errors, present
from qcore.methods import METHODS, Method, resolve_method
from qcore.schemes import ALIASES, find_scheme

__all__ = ["quantize"]

# typer turns the members into the choices that it shows and accepts. All stores' schemes, in one list.
_SCHEMES = dict.fromkeys(name for store in reversed(STORES) for name in store.schemes)
MethodName = Enum("MethodName", {name: name for name in METHODS})  # type: ignore[misc]


def quantize(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A Hugging Face folder or id, or a GGUF file.")
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The folder or .gguf file to write.")],
    scheme: Annotated[
        str | None,
        typer.Option(
            help="For a folder, W4A16 by default: bits of weights and inputs, _ASYM adds zero points (to "
            "weights, in W8A8 to inputs); FP8: both as 8-bit floats, FP8_BLOCK in blocks of 128. Scales "
            "of inputs are found at run time, by _STATIC and W8A8_ASYM from the calibration text. "
            f"For a GGUF file, Q4_K_M by default: llama.cpp's mixes of types. All of them, in upper or lower "
            f"case: {', '.join(_SCHEMES)}; and other names for them: {', '.join(ALIASES).lower()}.",
        ),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(help="Instead of a scheme: of weights, e.g. 4 for W4A16, in a GGUF file for Q4_K_M."),
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
            help="A file like what the model will see: a UTF-8 text, or JSON lines (or CSV) of texts (text), "
            "chats (messages, conversations) or answers (prompt and completion, instruction and output); "
            "chats go through the tokenizer's template. Needed by all methods but rtn, and by schemes with "
            "static input scales."
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
            help="re:EXPRESSION=SCHEME for layers in whose name the expression is found, e.g. "
            "'re:down_proj=W8A16' or 're:layers.0=float'; for a GGUF file the type of tensors, by their "
            "names there: 're:ffn_down=Q6_K'. Repeatable, the first that fits counts."
        ),
    ] = None,
    quantize_head: Annotated[
        int | None,
        typer.Option(
            help="8 or 4: bits of the layer that makes the logits, which otherwise stays as it is. Folders "
            "only.",
            metavar="BITS",
        ),
    ] = None,
    quantize_embeddings: Annotated[
        int | None,
        typer.Option(
            help="8 or 4: bits of the embedding of tokens; where head and embedding are one weight, of both. "
            "Few programs read such folders so far. Folders only.",
            metavar="BITS",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="Calibration sequences.", min=1)] = 64,
    sequence_length: Annotated[int, typer.Option(help="Tokens per calibration sequence.", min=2)] = 512,
    damping: Annotated[
        float | None,
        typer.Option(help="GPTQ: added to the Hessian's diagonal, relative to its mean, .01 by default."),
    ] = None,
    act_order: Annotated[
        bool | None,
        typer.Option(
            "--act-order/--no-act-order", help="GPTQ: columns with the largest inputs first, as by default."
        ),
    ] = None,
    search: Annotated[
        bool | None,
        typer.Option(
            "--search/--no-search",
            help="Search each group's clipping range, as gptq and awq do by default, and rtn alone does not.",
        ),
    ] = None,
    sequential: Annotated[
        bool,
        typer.Option(help="Calibrate each layer behind the quantized layers of its own block too (slower)."),
    ] = True,
    shard_gb: Annotated[
        float | None, typer.Option(help="Size of the files to write, in GB, 1 by default. Folders only.")
    ] = None,
    device: Annotated[
        DeviceName, typer.Option(help="Where blocks are calibrated and quantized, one at a time.")
    ] = DeviceName.cpu,
    overwrite: Annotated[bool, typer.Option(help="Replace DST if it exists.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Quantize SRC into the new folder, or GGUF file, DST.

    The model is never whole in memory: rtn holds one tensor at a time, the others one block. DST appears
    only once it is complete.
    """
    from qcore.quantization import quantize_checkpoint
    from qcore.text import TokenizerOf, read_sequences

    with errors():
        store, where = store_for(destination), present(device)
        name = _scheme(scheme, bits, store)
        given = {
            "ignore": ignore,
            "group_size": group_size,
            "overrides": override,
            "quantize_head": quantize_head,
            "quantize_embeddings": quantize_embeddings,
            "shard_bytes": None if shard_gb is None else int(shard_gb * (1 << 30)),
        }
        options: dict[str, Any] = {option: value for option, value in given.items() if value is not None}
        _refuse(options, store)
        chosen = _method(method.value, {"damping": damping, "act_order": act_order, "search": search})
        folder = store_at(source).resolve(source)
        tokens = None
        static = store.is_static(name, override or ())
        if chosen.needs_calibration or static:
            if calibration is None:
                needs = f"scheme {name}" if static else f"method {method.value}"
                raise ValueError(f"--calibration: {needs} needs a text file")
            tokens = read_sequences(
                calibration, TokenizerOf(folder, trust_remote_code), sequence_length, samples, "--calibration"
            )
        elif calibration is not None:
            typer.echo(f"note: --calibration is not read: {name} by {method.value} needs none", err=True)
        start = time.perf_counter()
        warnings.filterwarnings("ignore", "only .* of the parameters")  # said below
        report = quantize_checkpoint(
            folder,
            destination,
            name,
            chosen,
            tokens,
            sequential,
            overwrite,
            where,
            trust_remote_code,
            **options,
        )
        seconds = time.perf_counter() - start
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{destination}: {name} by {method.value}, {store.bytes(destination) / 1e6:.1f} MB, {seconds:.1f} s, "
        f"peak memory {_peak_memory_gb():.2f} GB"
    )
    for line in report.lines():
        console.print(line, markup=False)
    if report.warning is not None:
        typer.secho(f"warning: {report.warning}", err=True, fg=typer.colors.YELLOW)


def _scheme(scheme: str | None, bits: int | None, store: Store) -> str:
    """The scheme's name, which must be one for this kind of destination."""
    if bits is not None and scheme is not None:
        raise ValueError(f"--bits: stands for a scheme; got {bits} and --scheme {scheme}")
    if bits is not None:
        taken = [n for n in range(1, 9) if _is_known(f"{n}bit", store.schemes)]
        if bits not in taken:
            raise ValueError(f"--bits: {store.noun} takes one of {', '.join(map(str, taken))}; got {bits}")
        return find_scheme(f"{bits}bit", store.schemes)
    if scheme is None:
        return store.default_scheme
    if _is_known(scheme, store.schemes):
        return find_scheme(scheme, store.schemes)
    owner = next((s for s in STORES if _is_known(scheme, s.schemes)), None)
    if owner is not None:
        raise ValueError(
            f"--scheme: {store.noun} takes one of {', '.join(store.schemes)}; got {scheme}, which is for "
            f"{owner.noun}"
        )
    try:
        return find_scheme(scheme, store.schemes)
    except ValueError as error:
        raise typer.BadParameter(str(error).removeprefix("scheme: "), param_hint="--scheme") from error


def _is_known(name: str, schemes: Iterable[str]) -> bool:
    try:
        find_scheme(name, schemes)
    except ValueError:
        return False
    return True


# What stands for an option of one store in another.
_INSTEAD = dict.fromkeys(("ignore", "group_size", "quantize_head", "quantize_embeddings"), "overrides")


def _refuse(options: Iterable[str], store: Store) -> None:
    for option in options:
        if option not in store.options:
            instead = _INSTEAD.get(option)
            hint = f"; see {_FLAGS[instead]}" if instead in store.options else ""
            raise ValueError(f"{_FLAGS[option]}: is not for {store.noun}{hint}")


_FLAGS = {
    "ignore": "--ignore",
    "group_size": "--group-size",
    "overrides": "--override",
    "shard_bytes": "--shard-gb",
    "quantize_head": "--quantize-head",
    "quantize_embeddings": "--quantize-embeddings",
}


def _method(name: str, options: Mapping[str, Any]) -> Method:
    """A method with the options that were given. What it makes must load everywhere, so that inputs are only
    scaled where an earlier module can absorb it."""
    given = {option: value for option, value in options.items() if value is not None}
    try:
        return resolve_method(name, **given).without_divisors()
    except ValueError as error:
        option, _, reason = str(error).partition(": ")
        raise ValueError(f"--{option.replace('_', '-')}: {reason}") from error


def _peak_memory_gb() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9
