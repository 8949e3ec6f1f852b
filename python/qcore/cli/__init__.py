"""The command line: one file for each command (`qcore quantize`, `eval`, `inspect`, `explain`)."""

from __future__ import annotations

import sys
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated

import typer

from qcore.cli.evaluate import evaluate
from qcore.cli.explain import explain
from qcore.cli.inspect import inspect
from qcore.cli.quantize import quantize
from qcore.interrupts import end_on_signals, ended

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

app.command()(quantize)
app.command("eval")(evaluate)
app.command()(inspect)
app.command()(explain)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"qcore {version('qcore')}")
        raise typer.Exit


@app.callback()
def _quiet_unless_watched(
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    if not sys.stderr.isatty():
        from transformers.utils import logging

        logging.disable_progress_bar()


def main() -> None:
    """Entry point of the `qcore` command.

    The exit code is 1 after an error that a user can mend, 2 after wrong arguments, and 128 + n if signal n
    asked the command to end; nothing half-written is left behind then.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names may hold characters that it has no codes for
            stream.reconfigure(errors="backslashreplace")
    end_on_signals()
    try:
        app()
    except BaseException:
        if (end := ended()) is None:
            raise
        print(f"error: ended by {end.name}", file=sys.stderr)
        raise end from None
